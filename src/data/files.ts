// SPDX-License-Identifier: Apache-2.0
// Files that survive a power cut: written under a temporary name, synced, renamed, directory synced.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { EnvironmentError } from "../errors.ts";

/** Makes a rename or a new name in `directory` durable. A no-op where directories cannot be opened. */
export async function syncDirectory(directory: string): Promise<void> {
  let handle: Awaited<ReturnType<typeof open>>;
  try {
    handle = await open(directory, "r");
  } catch {
    return;
  }
  try {
    await handle.sync();
  } catch {
    // Some file systems refuse fsync on a directory; the rename itself is still atomic there.
  } finally {
    await handle.close();
  }
}

/** Says whether the disk (or a quota, or the file size limit) refused a write. */
export function isDiskFull(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
}

/** Turns ENOSPC and its kin into a typed error; other errors pass unchanged. */
export function asWriteError(error: unknown, path: string): unknown {
  if (!isDiskFull(error)) return error;
  return new EnvironmentError("ERR_DISK_FULL", `No space left to write ${path}`, {
    details: { path, system: (error as NodeJS.ErrnoException).code },
    remedies: [
      "free space on that file system",
      "rerun with --resume: shards already in the journal are kept",
    ],
    cause: error,
  });
}

/**
 * Writes parts to a temporary file beside `path`, syncs it, renames it over `path` and syncs the
 * directory. After a crash either the old or the new content is there, never a part of one.
 */
export async function writeFileAtomic(
  path: string,
  parts: readonly (Uint8Array | string)[],
): Promise<{ bytes: number; sha256: string }> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true });
  const temporary = join(directory, `.${process.pid}-${Math.random().toString(36).slice(2)}.tmp`);
  const hash = createHash("sha256");
  let bytes = 0;
  try {
    const handle = await open(temporary, "wx");
    try {
      for (const part of parts) {
        const buffer = typeof part === "string" ? Buffer.from(part) : part;
        hash.update(buffer);
        bytes += buffer.byteLength;
        let done = 0;
        while (done < buffer.byteLength) {
          const { bytesWritten } = await handle.write(buffer, done, buffer.byteLength - done);
          done += bytesWritten;
        }
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw asWriteError(error, path);
  }
  await syncDirectory(directory);
  return { bytes, sha256: hash.digest("hex") };
}

/** Removes temporary files that killed processes of this machine left in `directory`. */
export async function sweepTemporaries(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => [] as string[]);
  for (const name of names) {
    const pid = Number(/^\.(\d+)-[a-z0-9]+\.tmp$/.exec(name)?.[1] ?? Number.NaN);
    if (Number.isNaN(pid) || pid === process.pid) continue;
    try {
      process.kill(pid, 0);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ESRCH") await rm(join(directory, name), { force: true });
    }
  }
}

/** sha256 of a file, hex. */
export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** stat that answers null where there is nothing. */
export async function statOrNull(path: string): Promise<Awaited<ReturnType<typeof stat>> | null> {
  try {
    return await stat(path);
  } catch (error) {
    if (
      (error as NodeJS.ErrnoException).code === "ENOENT" ||
      (error as NodeJS.ErrnoException).code === "ENOTDIR"
    )
      return null;
    throw error;
  }
}
