// SPDX-License-Identifier: Apache-2.0
// Bytes of a file, decompressed by its ending, and its lines. Memory stays at a few chunks.

import { createReadStream } from "node:fs";
import { createGunzip } from "node:zlib";
import { Decompress } from "fzstd";
import { unreadableFile } from "./source.ts";

const CHUNK = 1 << 20;
const NEWLINE = 10;

async function* unzstd(input: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  let ready: Uint8Array[] = [];
  const decoder = new Decompress((data) => {
    if (data.byteLength > 0) ready.push(data);
  });
  for await (const chunk of input) {
    decoder.push(chunk);
    yield* ready;
    ready = [];
  }
  decoder.push(new Uint8Array(0), true);
  yield* ready;
}

/** Decompressed bytes of `path` (.gz and .zst are known by their ending). */
export async function* fileBytes(path: string, name: string): AsyncGenerator<Uint8Array> {
  const file = createReadStream(path, { highWaterMark: CHUNK });
  try {
    if (/\.gz$/i.test(path)) {
      const gunzip = createGunzip({ chunkSize: CHUNK });
      file.on("error", (error) => gunzip.destroy(error));
      yield* file.pipe(gunzip) as AsyncIterable<Buffer>;
    } else if (/\.(zst|zstd)$/i.test(path)) yield* unzstd(file as AsyncIterable<Buffer>);
    else yield* file as AsyncIterable<Buffer>;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw error;
    throw unreadableFile(name, `cannot be decompressed or read (${(error as Error).message})`, error);
  } finally {
    file.destroy();
  }
}

/** Number of lines; a last line without a newline counts, an empty rest does not. */
export async function countLines(path: string, name: string): Promise<number> {
  let lines = 0;
  let open = false;
  for await (const chunk of fileBytes(path, name)) {
    const buffer = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (let at = buffer.indexOf(NEWLINE); at !== -1; at = buffer.indexOf(NEWLINE, at + 1)) lines++;
    if (buffer.byteLength > 0) open = buffer[buffer.byteLength - 1] !== NEWLINE;
  }
  return lines + (open ? 1 : 0);
}

/**
 * Lines from line `from` on, without their newline, as bytes, one array per chunk. Lines before
 * `from` are counted, not copied.
 */
export async function* lineBatches(path: string, name: string, from: number): AsyncGenerator<Buffer[]> {
  let toSkip = from;
  let rest: Buffer[] = [];
  for await (const chunk of fileBytes(path, name)) {
    const buffer = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const lines: Buffer[] = [];
    let start = 0;
    for (let at = buffer.indexOf(NEWLINE); at !== -1; at = buffer.indexOf(NEWLINE, start)) {
      if (toSkip > 0) {
        toSkip--;
        rest = [];
      } else if (rest.length > 0) {
        rest.push(buffer.subarray(start, at));
        lines.push(Buffer.concat(rest));
        rest = [];
      } else lines.push(buffer.subarray(start, at));
      start = at + 1;
    }
    if (start < buffer.byteLength)
      rest.push(toSkip > 0 ? Buffer.alloc(1) : Buffer.from(buffer.subarray(start)));
    if (lines.length > 0) yield lines;
  }
  if (rest.length > 0 && toSkip === 0) yield [Buffer.concat(rest)];
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Text of a line, or null where it is not UTF-8. A carriage return at the end is dropped. */
export function lineText(line: Buffer): string | null {
  const end = line.byteLength > 0 && line[line.byteLength - 1] === 13 ? line.byteLength - 1 : line.byteLength;
  try {
    return utf8.decode(line.subarray(0, end));
  } catch {
    return null;
  }
}
