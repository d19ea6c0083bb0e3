// SPDX-License-Identifier: Apache-2.0
// Finds the archive for whatever a user calls a model: a name of the catalogue, an archive, a GGUF file
// or a Hugging Face folder. What has to be fetched or converted lies in the user cache afterwards.

import { createHash } from "node:crypto";
import { readdirSync, type Stats, statSync } from "node:fs";
import { realpath, rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ModelError } from "../errors.ts";
import { isGguf } from "../formats/gguf.ts";
import { archivePath, convertedArchive, isFile, type StoreOptions } from "./archives.ts";
import { cacheFolder, withLock } from "./cache-folder.ts";
import { download } from "./download.ts";
import { ggufParts } from "./gguf-parts.ts";
import { formatHubName, type HubPlace, hubPlace, parseHubName } from "./hub/place.ts";
import { archiveOf, findOrPull, pullFromHub, removePulled, snapshotKey } from "./hub/pull.ts";
import { listRecords } from "./hub/records.ts";
import { listSnapshots } from "./hub/snapshot.ts";
import { type CatalogModel, MODEL_CATALOG } from "./model-catalog.ts";

export type { StoreOptions } from "./archives.ts";
export { DEFAULT_MODEL, MODEL_CATALOG } from "./model-catalog.ts";

/** A model that can be named and whether it is at hand. */
export interface StoredModel {
  name: string;
  title: string;
  licence: string;
  /** "package" = always there; "ready" = fetched and converted; "fetched" = to be converted; "absent". */
  state: "package" | "ready" | "fetched" | "absent";
  /** Of the file that has to be fetched, or of the archive in the package. */
  bytes: number;
  path: string | null;
}

/**
 * Path of the archive. Names of the catalogue come first, then paths, then names on a hub
 * (org/name[@revision][:file]); write ./NAME for a path of the same name.
 * Throws ERR_MODEL_UNKNOWN, ERR_DOWNLOAD, ERR_CACHE_WRITE, what convert() and pullFromHub() throw.
 */
export async function resolveModel(nameOrPath: string, options: StoreOptions = {}): Promise<string> {
  options.signal?.throwIfAborted();
  const known = MODEL_CATALOG.find((model) => model.name === nameOrPath.toLowerCase());
  if (known) return pullCatalogModel(known, options);
  const info = statSync(nameOrPath, { throwIfNoEntry: false });
  if (!info) {
    const name = parseHubName(nameOrPath);
    if (name) return findOrPull(name, options);
    throw unknownModel(nameOrPath);
  }
  // Whatever is no GGUF is taken for an archive; the loader says what is wrong with it.
  if (!info.isDirectory() && !isGguf(nameOrPath)) return resolve(nameOrPath);
  const name = basename(resolve(nameOrPath)).replace(/\.gguf$/, "");
  return convertedArchive({ path: nameOrPath, name, key: await sourceKey(nameOrPath, info) }, options);
}

/**
 * Fetches and converts a model of the catalogue, or one on a hub, whose revision is looked up again.
 * Returns the archive's path. Throws as resolveModel.
 */
export async function pullModel(name: string, options: StoreOptions = {}): Promise<string> {
  const model = MODEL_CATALOG.find((candidate) => candidate.name === name.toLowerCase());
  if (model) return pullCatalogModel(model, options);
  const hubName = parseHubName(name);
  if (hubName) return pullFromHub(hubName, options);
  throw unknownModel(name);
}

async function pullCatalogModel(model: CatalogModel, options: StoreOptions): Promise<string> {
  const { origin } = model;
  if (origin.kind === "package") return packageArchive(origin.file);
  const cache = options.cache ?? cacheFolder();
  const source = sourcePath(cache, model);
  const archive = archivePath(cache, model.name, origin.sha256);
  if (isFile(archive)) return archive;
  await withLock(source, options.signal, async () => {
    if (statSync(source, { throwIfNoEntry: false })?.size === origin.bytes) return;
    await download({ ...origin, name: origin.file }, source, options);
  });
  const hub = origin.sources.find((each) => each.kind === "hub");
  return convertedArchive(
    {
      path: source,
      name: model.name,
      key: origin.sha256,
      sha256: { [origin.file]: origin.sha256 },
      ...(hub ? { origin: { repository: hub.repository, revision: hub.revision } } : {}),
    },
    { ...options, cache },
  );
}

/** The catalogue, with what is at hand; then what was pulled or lies in the hub's cache folder. */
export function listModels(cache: string = cacheFolder(), place: HubPlace = hubPlace()): StoredModel[] {
  return [...MODEL_CATALOG.map((model) => catalogEntry(model, cache)), ...hubEntries(cache, place)];
}

function catalogEntry(model: CatalogModel, cache: string): StoredModel {
  const { name, title, licence, origin } = model;
  if (origin.kind === "package") {
    const path = packageArchive(origin.file);
    const bytes = statSync(path, { throwIfNoEntry: false })?.size;
    if (bytes === undefined) return { name, title, licence, state: "absent", bytes: 0, path: null };
    return { name, title, licence, state: "package", bytes, path };
  }
  const archive = archivePath(cache, name, origin.sha256);
  const fetched = isFile(sourcePath(cache, model));
  const state = isFile(archive) ? "ready" : fetched ? "fetched" : "absent";
  return { name, title, licence, state, bytes: origin.bytes, path: state === "ready" ? archive : null };
}

function hubEntries(cache: string, place: HubPlace): StoredModel[] {
  const entries = new Map<string, StoredModel>();
  for (const snapshot of listSnapshots(place)) {
    const path = archiveOf(cache, { name: snapshot.name, key: snapshotKey(snapshot) });
    const bytes = snapshot.files.reduce((sum, file) => sum + file.bytes, 0);
    add(formatHubName(snapshot.name), snapshot.commit, "not known", bytes, path, "fetched");
  }
  for (const record of listRecords(cache)) {
    const name = formatHubName(record.name);
    const before = entries.get(name)?.state === "fetched" ? "fetched" : "absent";
    add(name, record.commit, record.licence ?? "not known", record.bytes, archiveOf(cache, record), before);
  }
  return [...entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));

  function add(
    name: string,
    commit: string,
    licence: string,
    bytes: number,
    archive: string,
    otherwise: StoredModel["state"],
  ): void {
    const ready = isFile(archive);
    const title = `on a hub, commit ${commit.slice(0, 12)}`;
    const state = ready ? "ready" : otherwise;
    entries.set(name, { name, title, licence, state, bytes, path: ready ? archive : null });
  }
}

// A path is the same source while its files have the same size and time. Their content is hashed when
// they are converted; hashing gigabytes at every load would cost seconds.
async function sourceKey(path: string, info: Stats): Promise<string> {
  const hash = createHash("sha256").update(await realpath(path));
  const parts = () => ggufParts(path).filter((part) => part !== path && isFile(part));
  const files = info.isDirectory()
    ? readdirSync(path)
        .sort()
        .map((file) => join(path, file))
    : [path, ...parts()];
  for (const file of files) {
    const { size, mtimeMs } = statSync(file);
    hash.update(`\n${file === path ? "" : basename(file)} ${size} ${mtimeMs}`);
  }
  return hash.digest("hex");
}

function sourcePath(cache: string, model: CatalogModel): string {
  return join(cache, "sources", model.origin.file);
}

function packageArchive(file: string): string {
  return fileURLToPath(new URL(`../../models/${file}`, import.meta.url));
}

/**
 * Removes a model's files from our cache (a path given as model is not touched, nor is the folder that
 * other hub clients share).
 */
export async function removeModel(name: string, cache: string = cacheFolder()): Promise<void> {
  const model = MODEL_CATALOG.find((candidate) => candidate.name === name.toLowerCase());
  const hubName = model ? null : parseHubName(name);
  if (hubName) return removePulled(hubName, cache);
  if (!model) throw unknownModel(name);
  if (model.origin.kind === "package") return;
  await rm(sourcePath(cache, model), { force: true });
  await rm(archivePath(cache, model.name, model.origin.sha256), { force: true });
}

function unknownModel(name: string): ModelError {
  const names = MODEL_CATALOG.map((model) => model.name);
  return new ModelError(
    "ERR_MODEL_UNKNOWN",
    `expected a model: a path that exists or one of ${names.join(", ")}; got "${name}"`,
    {
      details: { name, known: names },
      remedies: [
        "Give a .pt archive, a .gguf file, a Hugging Face folder, or org/name of a model on a hub.",
        "`npx chatspace-steer models` lists the models that can be named.",
      ],
    },
  );
}
