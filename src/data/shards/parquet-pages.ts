// SPDX-License-Identifier: Apache-2.0
// Columns as Parquet data pages (version 1): levels, values, compression, checksum.

import { crc32 } from "node:zlib";
import type { PageCodec } from "./compression.ts";
import { ThriftWriter } from "./thrift.ts";

export const Encoding = { plain: 0, rle: 3, byteStreamSplit: 9 } as const;

/** Target size of a page before compression. */
const PAGE_BYTES = 1 << 20;

export interface ChunkBytes {
  parts: Uint8Array[];
  values: number;
  uncompressed: number;
  compressed: number;
  encodings: number[];
}

function varint(out: number[], value: number): void {
  let rest = value;
  while (rest >= 0x80) {
    out.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  out.push(rest);
}

/** Runs of the RLE/bit-packed hybrid for levels of one bit, with their length in front. */
class Levels {
  readonly #runs: number[] = [];
  #value = -1;
  #count = 0;

  push(value: 0 | 1, count = 1): void {
    if (value === this.#value) {
      this.#count += count;
      return;
    }
    this.#close();
    this.#value = value;
    this.#count = count;
  }

  #close(): void {
    if (this.#count === 0) return;
    varint(this.#runs, this.#count * 2);
    this.#runs.push(this.#value);
    this.#count = 0;
  }

  finish(): Uint8Array {
    this.#close();
    const bytes = Buffer.alloc(4 + this.#runs.length);
    bytes.writeUInt32LE(this.#runs.length, 0);
    bytes.set(this.#runs, 4);
    return bytes;
  }
}

function page(chunk: ChunkBytes, codec: PageCodec, values: number, encoding: number, body: Uint8Array): void {
  const compressed = codec.compress(body);
  const header = new ThriftWriter()
    .body((w) =>
      w
        .i32(1, 0)
        .i32(2, body.byteLength)
        .i32(3, compressed.byteLength)
        .i32(4, crc32(compressed) | 0)
        .struct(5, (d) => d.i32(1, values).i32(2, encoding).i32(3, Encoding.rle).i32(4, Encoding.rle)),
    )
    .finish();
  chunk.parts.push(header, Uint8Array.from(compressed));
  chunk.values += values;
  chunk.uncompressed += header.byteLength + body.byteLength;
  chunk.compressed += header.byteLength + compressed.byteLength;
}

function emptyChunk(encoding: number): ChunkBytes {
  return { parts: [], values: 0, uncompressed: 0, compressed: 0, encodings: [encoding, Encoding.rle] };
}

type Scalar = string | number | bigint | boolean | null;

/** A scalar column: PLAIN values, one level of nullness. */
export function scalarChunk(
  values: readonly Scalar[],
  kind: "int64" | "double" | "bool" | "bytes",
  nullable: boolean,
  codec: PageCodec,
): ChunkBytes {
  const chunk = emptyChunk(Encoding.plain);
  let start = 0;
  do {
    const levels = new Levels();
    const strings: Buffer[] = [];
    const plain: (number | bigint | boolean)[] = [];
    let bytes = 0;
    let end = start;
    while (end < values.length && (bytes < PAGE_BYTES || end === start)) {
      const value = values[end++] as Scalar;
      if (nullable) levels.push(value === null ? 0 : 1);
      if (value === null) continue;
      if (kind === "bytes") {
        const encoded = Buffer.from(value as string);
        strings.push(encoded);
        bytes += 4 + encoded.byteLength;
      } else {
        plain.push(value as number);
        bytes += 8;
      }
    }
    const parts: Uint8Array[] = nullable ? [levels.finish()] : [];
    parts.push(kind === "bytes" ? plainBytes(strings, bytes) : plainFixed(plain, kind));
    page(chunk, codec, end - start, Encoding.plain, Buffer.concat(parts));
    start = end;
  } while (start < values.length);
  return chunk;
}

function plainBytes(strings: readonly Buffer[], bytes: number): Uint8Array {
  const out = Buffer.alloc(bytes);
  let at = 0;
  for (const value of strings) {
    out.writeUInt32LE(value.byteLength, at);
    out.set(value, at + 4);
    at += 4 + value.byteLength;
  }
  return out;
}

function plainFixed(
  values: readonly (number | bigint | boolean)[],
  kind: "int64" | "double" | "bool",
): Uint8Array {
  if (kind === "bool") {
    const out = Buffer.alloc(Math.ceil(values.length / 8));
    values.forEach((value, i) => {
      if (value) out[i >> 3] = (out[i >> 3] as number) | (1 << (i & 7));
    });
    return out;
  }
  const out = Buffer.alloc(values.length * 8);
  values.forEach((value, i) => {
    if (kind === "int64") out.writeBigInt64LE(BigInt(value), i * 8);
    else out.writeDoubleLE(Number(value), i * 8);
  });
  return out;
}

/**
 * A list column with exactly `dim` elements a row. `data` holds the elements little-endian, row-major.
 * float32 is split into byte streams, which compresses trained vectors by another tenth; float16 stays plain,
 * as some readers cannot split it.
 */
export function vectorChunk(
  data: Uint8Array,
  dim: number,
  elementBytes: 4 | 2,
  codec: PageCodec,
): ChunkBytes {
  const encoding = elementBytes === 4 ? Encoding.byteStreamSplit : Encoding.plain;
  const chunk = emptyChunk(encoding);
  const rowBytes = dim * elementBytes;
  const rows = data.byteLength / rowBytes;
  const rowsPerPage = Math.max(1, Math.floor(PAGE_BYTES / rowBytes));
  for (let start = 0; start < rows || start === 0; start += rowsPerPage) {
    const count = Math.min(rowsPerPage, rows - start);
    const repetition = new Levels();
    for (let row = 0; row < count; row++) {
      repetition.push(0);
      if (dim > 1) repetition.push(1, dim - 1);
    }
    const definition = new Levels();
    if (count > 0) definition.push(1, count * dim);
    const plain = data.subarray(start * rowBytes, (start + count) * rowBytes);
    const values = encoding === Encoding.plain ? plain : splitStreams(plain);
    const body = Buffer.concat([repetition.finish(), definition.finish(), values]);
    page(chunk, codec, count * dim, encoding, body);
  }
  return chunk;
}

function splitStreams(plain: Uint8Array): Uint8Array {
  const count = plain.byteLength / 4;
  const out = new Uint8Array(plain.byteLength);
  for (let i = 0; i < count; i++) {
    const at = i * 4;
    out[i] = plain[at] as number;
    out[count + i] = plain[at + 1] as number;
    out[2 * count + i] = plain[at + 2] as number;
    out[3 * count + i] = plain[at + 3] as number;
  }
  return out;
}
