// SPDX-License-Identifier: Apache-2.0
// Archives of our own in the user cache: one for each source and each version of the converter.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cacheFolder, ensureFolder, withLock } from "./cache-folder.ts";
import { ARCHIVE_FORMAT, convert, type SourceOrigin } from "./convert.ts";
import type { ProgressEvent } from "./progress.ts";

export interface StoreOptions {
  onProgress?: (event: ProgressEvent) => void;
  signal?: AbortSignal;
  /** Default: cacheFolder(). */
  cache?: string;
}

export interface ArchiveSource {
  /** A Hugging Face folder or a GGUF file. */
  path: string;
  /** First part of the archive's file name. */
  name: string;
  /** Hex; differs where the source does. */
  key: string;
  /** sha256 that is known already, by file name. */
  sha256?: Readonly<Record<string, string>>;
  origin?: SourceOrigin;
}

/** Path of the source's archive, made if it is not there. Throws what convert() throws, and ERR_CACHE_WRITE. */
export async function convertedArchive(source: ArchiveSource, options: StoreOptions): Promise<string> {
  const { name, key, origin, sha256 = {} } = source;
  const cache = options.cache ?? cacheFolder();
  const archive = archivePath(cache, name, key);
  if (isFile(archive)) return archive;
  await ensureFolder(join(cache, "archives"));
  await withLock(archive, options.signal, async () => {
    if (isFile(archive)) return;
    const { onProgress, signal } = options;
    await convert(source.path, archive, {
      sha256,
      ...(origin ? { origin } : {}),
      ...(signal ? { signal } : {}),
      onProgress: (bytesDone, bytesTotal) => onProgress?.({ stage: "convert", name, bytesDone, bytesTotal }),
    });
  });
  return archive;
}

export function archivePath(cache: string, name: string, key: string): string {
  return join(cache, "archives", `${name}-${key.slice(0, 12)}-${converterKey()}.pt`);
}

export function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

let converter: string | undefined;

// Archives hold the TorchScript sources, so a change of those makes other archives.
function converterKey(): string {
  if (converter) return converter;
  const folder = fileURLToPath(new URL("../../native/architectures/", import.meta.url));
  const hash = createHash("sha256").update(`format ${ARCHIVE_FORMAT}, with origin`);
  for (const file of readdirSync(folder).sort()) hash.update(readFileSync(join(folder, file)));
  converter = hash.digest("hex").slice(0, 8);
  return converter;
}
