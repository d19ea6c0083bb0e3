// SPDX-License-Identifier: Apache-2.0
// Files that appear whole or not at all: written beside the target, synced, renamed.

import { randomBytes } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { DataError } from "../errors.ts";

/** Replaces `path` by these bytes; a reader finds the old file or the new one. Throws ERR_FILE_WRITE. */
export async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    const file = await open(temporary, "wx");
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new DataError("ERR_FILE_WRITE", `cannot write ${path}: ${(cause as Error).message}`, {
      cause,
      details: { file: path },
      remedies: ["Check that the folder is there, may be written to, and has room."],
    });
  }
}
