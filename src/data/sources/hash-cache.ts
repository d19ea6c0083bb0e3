// SPDX-License-Identifier: Apache-2.0
// Remembers the sha256 of source files by size, time and inode, so that a resumed run does not read a
// terabyte again to learn that nothing changed.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { DataError } from "../../errors.ts";
import { sha256OfFile, statOrNull, writeFileAtomic } from "../files.ts";

/** sha256 and size of a local file, from the cache where its stat has not changed. */
export async function cachedHash(
  path: string,
  cacheFolder: string | null,
): Promise<{ bytes: number; sha256: string }> {
  const stats = await statOrNull(path);
  if (stats === null || !stats.isFile()) throw sourceMissing(path);
  const stamp = `${stats.size}-${stats.mtimeMs}-${stats.ino}`;
  const entry =
    cacheFolder === null
      ? null
      : join(cacheFolder, "hashes", createHash("sha256").update(path).digest("hex"));
  if (entry !== null) {
    try {
      const [known, sha256] = (await readFile(entry, "utf8")).split(" ");
      if (known === stamp && sha256 !== undefined && sha256.length === 64)
        return { bytes: Number(stats.size), sha256 };
    } catch {
      // Not cached yet.
    }
  }
  const sha256 = await sha256OfFile(path);
  if (entry !== null) await writeFileAtomic(entry, [`${stamp} ${sha256}`]);
  return { bytes: Number(stats.size), sha256 };
}

/** A source file that was there and is not any more, or never was. */
export function sourceMissing(path: string): DataError {
  return new DataError("ERR_SOURCE_MISSING", `The source ${path} is not there`, {
    details: { path },
    remedies: ["check the path given by --dataset", "bring the file back, then rerun with --resume"],
  });
}
