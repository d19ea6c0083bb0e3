// SPDX-License-Identifier: Apache-2.0
// Random access to bytes, from a file or from memory, with every read checked against the size. The
// readers of this folder take a ByteSource, so that a 4 GB checkpoint costs its header alone.

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { DataError } from "../errors.ts";

export interface ByteSource {
  /** For messages: a path, or what the bytes are. */
  readonly name: string;
  readonly size: number;
  /** A view or copy of [offset, offset + length). Throws ERR_FILE_TRUNCATED outside the source. */
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

function check(source: ByteSource, offset: number, length: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (whole && offset + length <= source.size) return;
  throw new DataError(
    "ERR_FILE_TRUNCATED",
    `${source.name}: expected ${length} bytes at offset ${offset}, the file has ${source.size}`,
    { details: { file: source.name, offset, length, size: source.size }, remedies: ["Get the file again."] },
  );
}

/** Bytes in memory as a source; reads are views. */
export function bytesSource(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    read(offset, length) {
      check(this, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    close() {},
  };
}

/** Opens a file for reading. Throws ERR_FILE_UNREADABLE. The caller closes it. */
export function openSource(path: string): ByteSource {
  let fd: number;
  let size: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    throw unreadable(path, cause);
  }
  try {
    const info = fstatSync(fd);
    if (!info.isFile()) throw new Error("it is not a regular file");
    size = info.size;
  } catch (cause) {
    closeSync(fd);
    throw unreadable(path, cause);
  }
  let open = true;
  return {
    name: path,
    size,
    read(offset, length) {
      check(this, offset, length);
      const bytes = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        const got = readSync(fd, bytes, done, Math.min(length - done, 1 << 30), offset + done);
        // The file became shorter since it was opened.
        if (got === 0) check({ ...this, size: offset + done }, offset, length);
        done += got;
      }
      return bytes;
    },
    close() {
      if (open) closeSync(fd);
      open = false;
    },
  };
}

/** Runs `use` over a path or bytes and closes what it opened. */
export function withSource<T>(
  source: string | Uint8Array | ByteSource,
  name: string,
  use: (source: ByteSource) => T,
): T {
  if (typeof source !== "string") {
    return use(source instanceof Uint8Array ? bytesSource(source, name) : source);
  }
  const file = openSource(source);
  try {
    return use(file);
  } finally {
    file.close();
  }
}

function unreadable(path: string, cause: unknown): DataError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new DataError("ERR_FILE_UNREADABLE", `cannot read ${path}: ${why}`, {
    details: { file: path },
    remedies: ["Check the path and its permissions."],
    cause,
  });
}
