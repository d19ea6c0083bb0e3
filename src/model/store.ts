// SPDX-License-Identifier: Apache-2.0
// Finds the archive for whatever a user calls a model: a name of the catalogue, an archive, a GGUF file
// or a Hugging Face folder. What has to be fetched or converted lies in the user cache afterwards.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, type Stats, statSync } from "node:fs";
import { realpath, rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ModelError } from "../errors.ts";
import { isGguf } from "../formats/gguf.ts";
import { cacheFolder, ensureFolder, withLock } from "./cache-folder.ts";
import { ARCHIVE_FORMAT, convert } from "./convert.ts";
import { download } from "./download.ts";
import { type CatalogModel, MODEL_CATALOG } from "./model-catalog.ts";
import type { ProgressEvent } from "./progress.ts";

export { DEFAULT_MODEL, MODEL_CATALOG } from "./model-catalog.ts";

export interface StoreOptions {
  onProgress?: (event: ProgressEvent) => void;
  signal?: AbortSignal;
  /** Default: cacheFolder(). */
  cache?: string;
}

/** A model of the catalogue and whether it is at hand. */
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
 * Path of the archive. Names of the catalogue come first; write ./NAME for a path of the same name.
 * Throws ERR_MODEL_UNKNOWN, ERR_DOWNLOAD, ERR_CACHE_WRITE and what convert() throws.
 */
export async function resolveModel(nameOrPath: string, options: StoreOptions = {}): Promise<string> {
  options.signal?.throwIfAborted();
  const known = MODEL_CATALOG.find((model) => model.name === nameOrPath.toLowerCase());
  if (known) return pullModel(known.name, options);
  const info = statSync(nameOrPath, { throwIfNoEntry: false });
  if (!info) throw unknownModel(nameOrPath);
  if (info.isDirectory()) return convertedPath(nameOrPath, await sourceKey(nameOrPath, info), options);
  // Whatever is no GGUF is taken for an archive; the loader says what is wrong with it.
  if (!isGguf(nameOrPath)) return resolve(nameOrPath);
  return convertedPath(nameOrPath, await sourceKey(nameOrPath, info), options);
}

/** Fetches and converts a model of the catalogue, once. Returns the archive's path. Throws as resolveModel. */
export async function pullModel(name: string, options: StoreOptions = {}): Promise<string> {
  const model = MODEL_CATALOG.find((candidate) => candidate.name === name.toLowerCase());
  if (!model) throw unknownModel(name);
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
  return convertedPath(source, origin.sha256, { ...options, cache }, model.name, {
    [origin.file]: origin.sha256,
  });
}

/** The catalogue, with what is at hand. */
export function listModels(cache: string = cacheFolder()): StoredModel[] {
  return MODEL_CATALOG.map((model) => {
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
  });
}

async function convertedPath(
  source: string,
  key: string,
  options: StoreOptions,
  name: string = basename(resolve(source)).replace(/\.gguf$/, ""),
  sha256: Record<string, string> = {},
): Promise<string> {
  const cache = options.cache ?? cacheFolder();
  const archive = archivePath(cache, name, key);
  if (isFile(archive)) return archive;
  await ensureFolder(join(cache, "archives"));
  await withLock(archive, options.signal, async () => {
    if (isFile(archive)) return;
    const { onProgress, signal } = options;
    await convert(source, archive, {
      sha256,
      ...(signal ? { signal } : {}),
      onProgress: (bytesDone, bytesTotal) => onProgress?.({ stage: "convert", name, bytesDone, bytesTotal }),
    });
  });
  return archive;
}

// A path is the same source while its files have the same size and time. Their content is hashed when
// they are converted; hashing gigabytes at every load would cost seconds.
async function sourceKey(path: string, info: Stats): Promise<string> {
  const hash = createHash("sha256").update(await realpath(path));
  const files = info.isDirectory() ? readdirSync(path).sort() : [""];
  for (const file of files) {
    const { size, mtimeMs } = statSync(join(path, file));
    hash.update(`\n${file} ${size} ${mtimeMs}`);
  }
  return hash.digest("hex");
}

function sourcePath(cache: string, model: CatalogModel): string {
  return join(cache, "sources", model.origin.file);
}

function archivePath(cache: string, name: string, key: string): string {
  return join(cache, "archives", `${name}-${key.slice(0, 12)}-${converterKey()}.pt`);
}

let converter: string | undefined;

// Archives hold the TorchScript sources, so a change of those makes other archives.
function converterKey(): string {
  if (converter) return converter;
  const folder = fileURLToPath(new URL("../../native/architectures/", import.meta.url));
  const hash = createHash("sha256").update(`format ${ARCHIVE_FORMAT}`);
  for (const file of readdirSync(folder).sort()) hash.update(readFileSync(join(folder, file)));
  converter = hash.digest("hex").slice(0, 8);
  return converter;
}

function packageArchive(file: string): string {
  return fileURLToPath(new URL(`../../models/${file}`, import.meta.url));
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

/** Removes a model's files from the cache (a path given as model is not touched). */
export async function removeModel(name: string, cache: string = cacheFolder()): Promise<void> {
  const model = MODEL_CATALOG.find((candidate) => candidate.name === name.toLowerCase());
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
        "Give a .pt archive, a .gguf file or a Hugging Face folder.",
        "`npx chatspace-steer models` lists the models that can be named.",
      ],
    },
  );
}
