// SPDX-License-Identifier: Apache-2.0
// The cache folder of the Hugging Face clients, so that what Python fetched is not fetched again and the
// other way round: models--ORG--NAME/{refs/REVISION, blobs/ETAG, snapshots/COMMIT/PATH -> blob}.

import { createHash, randomUUID } from "node:crypto";
import { createReadStream, lstatSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { copyFile, mkdir, rename, rm, stat, symlink } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { EnvironmentError, ServiceError } from "../../errors.ts";
import { writeWhole } from "../../formats/write-whole.ts";
import { withLock } from "../cache-folder.ts";
import { fetchToFile } from "../http-download.ts";
import { fileUrl, type HubFile, type HubRepository, type HubRequest } from "./api.ts";
import type { HubPlace } from "./place.ts";

/** Tells the bytes of one file that are there. */
export type OnBytes = (done: number) => void;

export function repositoryFolder(place: HubPlace, repository: string): string {
  return join(place.folder, `models--${repository.replaceAll("/", "--")}`);
}

/** The commit a revision had when it was last looked up; a commit is itself. */
export function knownCommit(folder: string, revision: string): string | null {
  if (/^[0-9a-f]{40}$/.test(revision)) return revision;
  try {
    const text = readFileSync(join(folder, "refs", revision), "utf8").trim();
    return /^[0-9a-f]{40}$/.test(text) ? text : null;
  } catch {
    return null;
  }
}

export async function writeCommit(folder: string, revision: string, commit: string): Promise<void> {
  if (revision === commit || knownCommit(folder, revision) === commit) return;
  const path = join(folder, "refs", revision);
  await writing(folder, async () => {
    await mkdir(dirname(path), { recursive: true });
    await writeWhole(path, new TextEncoder().encode(commit));
  });
}

export function snapshotFolder(folder: string, commit: string): string {
  return join(folder, "snapshots", commit);
}

/** What a file of a snapshot is known by: its blob's name, or size and time where links cannot be made. */
export function cachedEtag(path: string): string {
  if (lstatSync(path).isSymbolicLink()) return basename(readlinkSync(path));
  const { size, mtimeMs } = statSync(path);
  return `${size}-${mtimeMs}`;
}

/**
 * Brings one file into the snapshot, from the cache or the hub, and checks its hash either way.
 * Throws ERR_DOWNLOAD, ERR_HUB_HASH, ERR_CACHE_WRITE; the signal's reason.
 */
export async function bringFile(
  folder: string,
  repo: HubRepository,
  file: HubFile,
  request: HubRequest,
  onBytes: OnBytes,
): Promise<string> {
  const blob = join(folder, "blobs", file.etag);
  const path = join(snapshotFolder(folder, repo.commit), file.path);
  // Other clients lock in a way of their own; ours writes under a name of its own and renames, so that
  // at worst both fetch the same bytes.
  await withLock(`${blob}.chatspace`, request.signal, async () => {
    if (!(await isWhole(blob, file, request.signal))) {
      const partial = `${blob}.chatspace.partial`;
      await writing(folder, () =>
        fetchBlob(fileUrl(repo, file.path, request.place), partial, file, request, onBytes),
      );
      await writing(folder, () => rename(partial, blob));
    }
    onBytes(file.bytes);
    await writing(folder, () => link(blob, path));
  });
  return path;
}

async function fetchBlob(
  url: string,
  partial: string,
  file: HubFile,
  request: HubRequest,
  onBytes: OnBytes,
): Promise<void> {
  const { place, signal, patience = 20_000 } = request;
  // A cached part that is wrong spoils one pass; the second starts from nothing.
  for (let pass = 1; ; pass++) {
    const resumed = statSync(partial, { throwIfNoEntry: false }) !== undefined;
    await fetchToFile(url, partial, {
      bytes: file.bytes,
      patience,
      headers: place.token === null ? {} : { authorization: `Bearer ${place.token}` },
      signal,
      onBytes,
    }).catch((cause: unknown) => {
      signal?.throwIfAborted();
      const inner = cause instanceof Error ? cause.cause : undefined;
      if (systemCode(inner) !== undefined) throw inner;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new ServiceError("ERR_DOWNLOAD", `${url} could not be had: ${why}`, {
        details: { url, file: file.path, bytes: file.bytes },
        remedies: ["Run it again: what has come is kept, and is gone on from.", "Check the network."],
        cause,
      });
    });
    const got = await contentHash(partial, file, signal);
    if (got === file.etag) return;
    await rm(partial, { force: true });
    if (resumed && pass === 1) continue;
    throw new ServiceError("ERR_HUB_HASH", `${url}: expected hash ${file.etag}, got ${got}`, {
      details: { url, file: file.path, expected: file.etag, got },
      remedies: [
        "Run it again: the file is fetched anew.",
        "A proxy or mirror may alter files: check HF_ENDPOINT.",
      ],
    });
  }
}

async function isWhole(blob: string, file: HubFile, signal: AbortSignal | undefined): Promise<boolean> {
  const info = await stat(blob).catch(() => null);
  return info?.size === file.bytes && (await contentHash(blob, file, signal)) === file.etag;
}

/** In the form of the etag: sha256, or the git blob id, which hashes the length before the content. */
async function contentHash(path: string, file: HubFile, signal: AbortSignal | undefined): Promise<string> {
  const git = file.etag.length === 40;
  const hash = createHash(git ? "sha1" : "sha256");
  if (git) hash.update(`blob ${file.bytes}\0`);
  if (file.bytes > 0)
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
      signal?.throwIfAborted();
      hash.update(chunk as Uint8Array);
    }
  return hash.digest("hex");
}

// By rename, so that a reader sees the old link or the new one.
async function link(blob: string, path: string): Promise<void> {
  const target = relative(dirname(path), blob);
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there?.isSymbolicLink() && readlinkSync(path) === target) return;
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await symlink(target, temporary);
  } catch (error) {
    if (systemCode(error) !== "EPERM") throw error;
    await copyFile(blob, temporary);
  }
  await rename(temporary, path);
}

const FULL_OR_FORBIDDEN = ["ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EIO", "EMFILE", "ENOTDIR"];

/** Work that writes into the cache. Throws ERR_CACHE_WRITE where the disk is what failed. */
async function writing<T>(folder: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const code = systemCode(cause);
    if (code === undefined) throw cause;
    throw new EnvironmentError(
      "ERR_CACHE_WRITE",
      `cannot write below ${folder}: ${(cause as Error).message}`,
      {
        details: { folder, code },
        remedies: [
          code === "ENOSPC" || code === "EDQUOT" ? "Free some space." : "Check the rights of that folder.",
          "HF_HOME or HF_HUB_CACHE put the cache elsewhere.",
        ],
        cause,
      },
    );
  }
}

function systemCode(error: unknown): string | undefined {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return typeof code === "string" && FULL_OR_FORBIDDEN.includes(code) ? code : undefined;
}
