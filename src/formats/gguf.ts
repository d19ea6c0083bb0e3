// SPDX-License-Identifier: Apache-2.0
// GGUF reader: metadata and table of tensors, every count and length checked against what is left of
// the file before it is believed. Versions 2 and 3, little-endian.
// Format: docs/gguf.md of the ggml project.

import { DataError } from "../errors.ts";
import { type ByteSource, withSource } from "./byte-source.ts";
import { GGUF_TENSOR_TYPES, GGUF_VALUE_BYTES, GGUF_VALUE_TYPES, type GgufValueType } from "./gguf-types.ts";
import { DTYPE_BYTES, type FormatTensor, makeTensor, type TensorDtype } from "./tensor.ts";

/** Integers beyond 2^53 come as bigint. */
export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

/** Where one tensor lies; offset is from the start of the file. */
export interface GgufEntry {
  readonly name: string;
  /** "F32", "Q4_1", ... */
  readonly type: string;
  /** Row-major, outermost first (the file stores the reverse). */
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufEntry>;
}

/** Whether a file begins as GGUF files do, whatever its name. Throws ERR_FILE_UNREADABLE. */
export function isGguf(path: string): boolean {
  return withSource(path, path, (bytes) => {
    const magic = bytes.read(0, Math.min(4, bytes.size));
    return new TextDecoder("latin1").decode(magic) === "GGUF";
  });
}

/** Reads metadata and tensor table, not the data. Throws ERR_GGUF. */
export function readGgufHeader(source: string | Uint8Array | ByteSource): GgufHeader {
  return withSource(source, "GGUF bytes", (bytes) => {
    const cursor = new Cursor(bytes);
    if (bytes.size < 24) throw bad(bytes, "a GGUF header", `${bytes.size} bytes`);
    const magic = cursor.take(4);
    if (magic[0] !== 0x47 || magic[1] !== 0x47 || magic[2] !== 0x55 || magic[3] !== 0x46)
      throw bad(bytes, "the letters GGUF at the start", JSON.stringify(String.fromCharCode(...magic)));
    const version = cursor.number("uint32") as number;
    if (version !== 2 && version !== 3)
      throw bad(bytes, "GGUF version 2 or 3, little-endian", `version ${version}`);
    const tensorCount = cursor.count("tensors", 8 + 4 + 8 + 4 + 8);
    const valueCount = cursor.count("metadata values", 8 + 4 + 1);
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < valueCount; i++) {
      const key = cursor.string();
      if (metadata.has(key)) throw bad(bytes, "each metadata key once", `${key} twice`);
      metadata.set(key, cursor.value(cursor.type(key), key, 0));
    }
    const entries: Omit<GgufEntry, "bytes">[] = [];
    const sizes: number[] = [];
    for (let i = 0; i < tensorCount; i++) {
      const { entry, bytes: size } = readEntry(cursor, bytes);
      entries.push(entry);
      sizes.push(size);
    }
    return { version, metadata, tensors: place(bytes, cursor.position, metadata, entries, sizes) };
  });
}

/** Reads float and integer tensors of a small file (control vectors). Block types are refused: ERR_GGUF. */
export function readGgufTensors(source: string | Uint8Array | ByteSource): {
  metadata: ReadonlyMap<string, GgufValue>;
  tensors: ReadonlyMap<string, FormatTensor>;
} {
  return withSource(source, "GGUF bytes", (bytes) => {
    const header = readGgufHeader(bytes);
    const tensors = new Map<string, FormatTensor>();
    for (const entry of header.tensors.values()) tensors.set(entry.name, readGgufTensor(bytes, entry));
    return { metadata: header.metadata, tensors };
  });
}

/** Reads one tensor of a plain type. Throws ERR_GGUF for block types. */
export function readGgufTensor(source: ByteSource, entry: GgufEntry): FormatTensor {
  if (!Object.hasOwn(DTYPE_BYTES, entry.type))
    throw bad(source, `tensor ${entry.name} of a plain type`, `block type ${entry.type}`);
  return makeTensor(entry.type as TensorDtype, entry.shape, source.read(entry.offset, entry.bytes));
}

function readEntry(cursor: Cursor, source: ByteSource): { entry: Omit<GgufEntry, "bytes">; bytes: number } {
  const name = cursor.string();
  const dimensions = cursor.number("uint32") as number;
  if (dimensions > 4) throw bad(source, `tensor ${name} of at most 4 dimensions`, `${dimensions}`);
  const shape: number[] = [];
  let elements = 1;
  for (let d = 0; d < dimensions; d++) {
    const size = cursor.natural(`tensor ${name}, dimension ${d}`);
    elements *= size;
    shape.unshift(size);
  }
  const typeNumber = cursor.number("uint32") as number;
  const type = GGUF_TENSOR_TYPES.get(typeNumber);
  if (!type) throw bad(source, `tensor ${name} of a known type`, `type number ${typeNumber}`);
  const row = shape.at(-1) ?? 1;
  if (row % type.block !== 0)
    throw bad(source, `tensor ${name}: rows of ${type.name} in blocks of ${type.block}`, `rows of ${row}`);
  const bytes = (elements / type.block) * type.bytes;
  if (!Number.isSafeInteger(elements) || bytes > source.size)
    throw bad(source, `tensor ${name} inside the file`, `shape [${shape.join(", ")}]`);
  const offset = cursor.natural(`offset of tensor ${name}`);
  return { entry: { name, type: type.name, shape, offset }, bytes };
}

function place(
  source: ByteSource,
  headerEnd: number,
  metadata: ReadonlyMap<string, GgufValue>,
  entries: readonly Omit<GgufEntry, "bytes">[],
  sizes: readonly number[],
): Map<string, GgufEntry> {
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !Number.isInteger(alignment) || alignment < 1 || alignment > 1 << 20)
    throw bad(source, "general.alignment as a small integer", String(alignment));
  const dataStart = Math.ceil(headerEnd / alignment) * alignment;
  const tensors = new Map<string, GgufEntry>();
  entries.forEach((entry, i) => {
    const offset = dataStart + entry.offset;
    const bytes = sizes[i]!;
    if (entry.offset % alignment !== 0)
      throw bad(source, `tensor ${entry.name} at a multiple of ${alignment}`, `offset ${entry.offset}`);
    if (offset + bytes > source.size)
      throw bad(
        source,
        `tensor ${entry.name} inside the file of ${source.size} bytes`,
        `its end at ${offset + bytes}`,
      );
    if (tensors.has(entry.name)) throw bad(source, "each tensor once", `${entry.name} twice`);
    tensors.set(entry.name, { ...entry, offset, bytes });
  });
  let end = 0;
  for (const entry of [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (entry.offset < end) throw bad(source, "tensors that do not overlap", `${entry.name} inside another`);
    end = entry.offset + entry.bytes;
  }
  return tensors;
}

// Walks the header through a window, so that a vocabulary of 250,000 strings is not 250,000 reads.
class Cursor {
  position = 0;
  private readonly source: ByteSource;
  private window = new Uint8Array(0);
  private windowStart = 0;
  private readonly decoder = new TextDecoder("utf-8");

  constructor(source: ByteSource) {
    this.source = source;
  }

  take(length: number): Uint8Array {
    const start = this.position - this.windowStart;
    if (start + length > this.window.length) {
      if (length > this.source.size - this.position)
        throw bad(this.source, `${length} more bytes at ${this.position}`, `a file of ${this.source.size}`);
      const size = Math.min(Math.max(length, 1 << 20), this.source.size - this.position);
      this.window = this.source.read(this.position, size) as Uint8Array<ArrayBuffer>;
      this.windowStart = this.position;
      this.position += length;
      return this.window.subarray(0, length);
    }
    this.position += length;
    return this.window.subarray(start, start + length);
  }

  number(type: GgufValueType): number | bigint {
    const bytes = this.take(GGUF_VALUE_BYTES[type]);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    switch (type) {
      case "uint8":
        return view.getUint8(0);
      case "int8":
        return view.getInt8(0);
      case "uint16":
        return view.getUint16(0, true);
      case "int16":
        return view.getInt16(0, true);
      case "uint32":
        return view.getUint32(0, true);
      case "int32":
        return view.getInt32(0, true);
      case "float32":
        return view.getFloat32(0, true);
      case "float64":
        return view.getFloat64(0, true);
      case "uint64":
        return narrow(view.getBigUint64(0, true));
      default:
        return narrow(view.getBigInt64(0, true));
    }
  }

  natural(what: string): number {
    const value = this.number("uint64");
    if (typeof value === "number") return value;
    throw bad(this.source, `${what} below 2^53`, String(value));
  }

  /** A count of things that take at least `least` bytes each: more than fit in the file is a lie. */
  count(what: string, least: number): number {
    const value = this.natural(`number of ${what}`);
    const fit = Math.floor((this.source.size - this.position) / least);
    if (value > fit) throw bad(this.source, `at most ${fit} ${what}, as fit in the file`, String(value));
    return value;
  }

  string(): string {
    const length = this.natural("length of a string");
    if (length > this.source.size - this.position)
      throw bad(this.source, `a string of at most ${this.source.size - this.position} bytes`, String(length));
    return this.decoder.decode(this.take(length));
  }

  type(key: string): GgufValueType {
    const number = this.number("uint32") as number;
    const type = GGUF_VALUE_TYPES[number];
    if (!type) throw bad(this.source, `a known value type of ${key}`, `type number ${number}`);
    return type;
  }

  value(type: GgufValueType, key: string, depth: number): GgufValue {
    if (type === "string") return this.string();
    if (type === "bool") return this.take(1)[0] !== 0;
    if (type !== "array") return this.number(type);
    if (depth > 4) throw bad(this.source, `arrays of ${key} nested at most 4 deep`, "more");
    const element = this.type(key);
    const count = this.count(`elements of ${key}`, GGUF_VALUE_BYTES[element]);
    const values: GgufValue[] = [];
    for (let i = 0; i < count; i++) values.push(this.value(element, key, depth + 1));
    return values;
  }
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function bad(source: ByteSource, expected: string, got: string): DataError {
  return new DataError("ERR_GGUF", `${source.name}: expected ${expected}, got ${got}`, {
    details: { file: source.name, expected, got },
    remedies: ["Get the file again: it is damaged, cut short, or not a GGUF file."],
  });
}
