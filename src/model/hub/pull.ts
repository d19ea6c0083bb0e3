// SPDX-License-Identifier: Apache-2.0
// A model by its name on a hub: found in the caches or fetched, then converted into an archive of ours.

import { createHash } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { ServiceError } from "../../errors.ts";
import { archivePath, convertedArchive, isFile, type StoreOptions } from "../archives.ts";
import { cacheFolder } from "../cache-folder.ts";
import { sha256OfFile } from "../convert.ts";
import { ggufParts } from "../gguf-parts.ts";
import { type HubFile, type HubRequest, hubFile, hubRepository } from "./api.ts";
import { bringFile, repositoryFolder, snapshotFolder, writeCommit } from "./cache.ts";
import { chooseFiles, shardsOf } from "./choose.ts";
import { formatHubName, type HubName, hubPlace } from "./place.ts";
import { listRecords, type PullRecord, readRecord, removeRecord, writeRecord } from "./records.ts";
import { findSnapshot, type Snapshot } from "./snapshot.ts";

export interface HubModelOptions extends StoreOptions {
  /** Default: process.env. */
  environment?: NodeJS.ProcessEnv;
  /** Tries of one request and milliseconds an answer may take to begin; see HubRequest. */
  tries?: number;
  patience?: number;
}

/**
 * The archive of a model: what was pulled before, or lies in the hub's cache folder, is used without a
 * look at the network; otherwise it is pulled. Throws as pullFromHub.
 */
export async function findOrPull(name: HubName, options: HubModelOptions = {}): Promise<string> {
  const cache = options.cache ?? cacheFolder();
  const record = readRecord(cache, name);
  const pulled = record && archiveOf(cache, record);
  if (pulled && isFile(pulled)) return pulled;
  const place = hubPlace(options.environment);
  const snapshot = findSnapshot(place, name);
  const made = snapshot && archiveOf(cache, { name, key: snapshotKey(snapshot) });
  if (made && isFile(made)) return made;
  const usable = snapshot !== null && (await isIntact(snapshot, options));
  if (usable && (snapshot.tokenizer || place.offline || isKnownWhole(cache, snapshot)))
    return fromSnapshot(snapshot, options);
  try {
    return await pullFromHub(name, options);
  } catch (error) {
    // Without a tokenizer, but better than nothing where there is no network.
    const unreachable = error instanceof ServiceError && error.code === "ERR_SERVICE_UNREACHABLE";
    if (!usable || !unreachable) throw error;
    return fromSnapshot(snapshot, options);
  }
}

/**
 * Asks the hub for the revision's commit, fetches what is not in the cache folder, checks every hash and
 * converts. Nothing is fetched or converted twice. Returns the archive's path.
 *
 * @throws DataError ERR_HUB_NOT_FOUND, ERR_HUB_FILE; ServiceError ERR_HUB_ACCESS, ERR_HUB_STATUS,
 *   ERR_HUB_ANSWER, ERR_HUB_HASH, ERR_DOWNLOAD, ERR_SERVICE_UNREACHABLE; EnvironmentError
 *   ERR_CACHE_WRITE; what convert() throws; signal.reason.
 */
export async function pullFromHub(name: HubName, options: HubModelOptions = {}): Promise<string> {
  const cache = options.cache ?? cacheFolder();
  const place = hubPlace(options.environment);
  const label = formatHubName(name);
  if (place.offline)
    throw new ServiceError("ERR_SERVICE_UNREACHABLE", `${label} is not at hand, and HF_HUB_OFFLINE is set`, {
      details: { name: label },
      remedies: ["Unset HF_HUB_OFFLINE, or bring the model into the cache folder by other means."],
    });
  const request: HubRequest = { place, signal: options.signal, ...limits(options) };
  const repo = await hubRepository(name, request);
  const folder = repositoryFolder(place, name.repository);
  const choice = chooseFiles(label, repo.files, name.file);
  const files: HubFile[] = [];
  for (const path of choice.kind === "gguf" ? ggufParts(choice.file) : choice.files)
    files.push(await hubFile(repo, path, request));
  if (choice.kind === "folder" && choice.index !== null) {
    const index = files.find((file) => file.path === choice.index)!;
    const path = await bringFile(folder, repo, index, request, () => {});
    for (const shard of shardsOf(choice.index, readFileSync(path, "utf8")))
      files.push(await hubFile(repo, shard, request));
  }
  const { commit, licence } = repo;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const record: PullRecord = { name, commit, licence, key: keyOf(name, commit, files), bytes, files };
  const archive = archiveOf(cache, record);
  if (!isFile(archive)) {
    let before = 0;
    for (const file of files) {
      const onBytes = (done: number) =>
        options.onProgress?.({ stage: "download", name: label, bytesDone: before + done, bytesTotal: bytes });
      await bringFile(folder, repo, file, request, onBytes);
      before += file.bytes;
    }
    await writeCommit(folder, name.revision, commit);
    const snapshot = snapshotFolder(folder, commit);
    await convertRecord(record, choice.kind === "gguf" ? join(snapshot, choice.file) : snapshot, options);
  }
  await writeRecord(cache, record);
  return archive;
}

/** Removes the archive and the note on it; the hub's cache folder belongs to other programs too. */
export async function removePulled(name: HubName, cache: string): Promise<void> {
  const record = readRecord(cache, name);
  if (record) rmSync(archiveOf(cache, record), { force: true });
  await removeRecord(cache, name);
}

export function archiveOf(cache: string, { name, key }: Pick<PullRecord, "name" | "key">): string {
  return archivePath(cache, name.repository.replace("/", "--"), key);
}

/** The archive's key of a model in the hub's cache folder; the same as after a pull of the same files. */
export function snapshotKey({ name, commit, files }: Snapshot): string {
  return keyOf(name, commit, files);
}

async function fromSnapshot(snapshot: Snapshot, options: HubModelOptions): Promise<string> {
  const { name, commit, files, source } = snapshot;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const record: PullRecord = { name, commit, licence: null, key: snapshotKey(snapshot), bytes, files };
  const archive = await convertRecord(record, source, options);
  await writeRecord(options.cache ?? cacheFolder(), record);
  return archive;
}

function convertRecord(record: PullRecord, path: string, options: HubModelOptions): Promise<string> {
  const { name, key, commit } = record;
  // The files' hashes have been checked; blobs of large files are named by their sha256.
  const known = record.files.filter((file) => /^[0-9a-f]{64}$/.test(file.etag));
  return convertedArchive(
    {
      path,
      name: name.repository.replace("/", "--"),
      key,
      sha256: Object.fromEntries(known.map((file) => [file.path.split("/").at(-1), file.etag])),
      origin: { repository: name.repository, revision: commit },
    },
    options,
  );
}

/** A pull has seen what the repository holds at this commit. */
function isKnownWhole(cache: string, { name, commit }: Snapshot): boolean {
  return listRecords(cache).some(
    (record) => record.name.repository === name.repository && record.commit === commit,
  );
}

/** Large files are hashed again before they are converted: another program wrote them. */
async function isIntact({ source, files }: Snapshot, { signal }: HubModelOptions): Promise<boolean> {
  for (const { path, etag } of files) {
    if (etag.length !== 64) continue;
    const place = source.endsWith(".gguf") ? join(dirname(source), basename(path)) : join(source, path);
    if ((await sha256OfFile(place, signal)) !== etag) return false;
  }
  return true;
}

function keyOf(name: HubName, commit: string, files: readonly { path: string; etag: string }[]): string {
  const listed = files.map(({ path, etag }) => `${path} ${etag}`).sort();
  return createHash("sha256")
    .update([name.repository, commit, ...listed].join("\n"))
    .digest("hex");
}

function limits({ tries, patience }: HubModelOptions): { tries?: number; patience?: number } {
  return { ...(tries === undefined ? {} : { tries }), ...(patience === undefined ? {} : { patience }) };
}
