// SPDX-License-Identifier: Apache-2.0
// safetensors: 8 bytes of header length, a JSON header, then the data. Nothing in the header is
// believed before it is checked: lengths, dtypes, shapes against byte ranges, overlaps, order.
// Format: https://github.com/huggingface/safetensors (format section of its README).

import { DataError } from "../errors.ts";
import { type ByteSource, withSource } from "./byte-source.ts";
import { DTYPE_BYTES, elementCount, type FormatTensor, makeTensor, type TensorDtype } from "./tensor.ts";

/** Where one tensor lies; offset is from the start of the file. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
}

export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
}

export interface SafetensorsFile {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, FormatTensor>;
}

// The reference implementation's own bound.
const MAX_HEADER = 100_000_000;

/** Reads the table of tensors and the metadata, not the data. Throws ERR_SAFETENSORS. */
export function readSafetensorsHeader(source: string | Uint8Array | ByteSource): SafetensorsHeader {
  return withSource(source, "safetensors bytes", (bytes) => {
    if (bytes.size < 8) throw bad(bytes, "a header", `${bytes.size} bytes`);
    const length = Number(dataView(bytes.read(0, 8)).getBigUint64(0, true));
    if (length > MAX_HEADER || length + 8 > bytes.size)
      throw bad(
        bytes,
        `a header of at most ${Math.min(MAX_HEADER, bytes.size - 8)} bytes`,
        `length ${length}`,
      );
    return parseHeader(bytes, bytes.read(8, length), 8 + length);
  });
}

/** Reads a whole file, or only the tensors named. Throws ERR_SAFETENSORS. */
export function readSafetensors(
  source: string | Uint8Array | ByteSource,
  options: { names?: readonly string[] } = {},
): SafetensorsFile {
  return withSource(source, "safetensors bytes", (bytes) => {
    const header = readSafetensorsHeader(bytes);
    const tensors = new Map<string, FormatTensor>();
    for (const name of options.names ?? header.tensors.keys()) {
      const entry = header.tensors.get(name);
      if (!entry) throw bad(bytes, `a tensor named ${name}`, `tensors ${list([...header.tensors.keys()])}`);
      tensors.set(name, makeTensor(entry.dtype, entry.shape, bytes.read(entry.offset, entry.bytes)));
    }
    return { metadata: header.metadata, tensors };
  });
}

/** The bytes of a file. Tensors stand in order of descending alignment, then of name, as the reference writes them. */
export function writeSafetensors(
  tensors: ReadonlyMap<string, FormatTensor> | Readonly<Record<string, FormatTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const entries: [string, FormatTensor][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  entries.sort(
    ([a, left], [b, right]) => DTYPE_BYTES[right.dtype] - DTYPE_BYTES[left.dtype] || (a < b ? -1 : 1),
  );
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  let end = 0;
  for (const [name, { dtype, shape, data }] of entries) {
    if (name === "__metadata__")
      throw new DataError("ERR_SAFETENSORS", "a tensor cannot be named __metadata__");
    makeTensor(dtype, shape, data);
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  // Padded so that the data begin at a multiple of 8, which keeps memory maps aligned.
  const padded = Math.ceil(json.length / 8) * 8;
  const out = new Uint8Array(8 + padded + end);
  dataView(out).setBigUint64(0, BigInt(padded), true);
  out.fill(0x20, 8, 8 + padded);
  out.set(json, 8);
  let at = 8 + padded;
  for (const [, { data }] of entries) {
    out.set(data, at);
    at += data.byteLength;
  }
  return out;
}

/**
 * Length and header of tensors that stand one after another in the order given, for files that are written
 * piece by piece. `bytes`: what it has to fill, with spaces behind; default as little as keeps the data aligned.
 */
export function safetensorsHeader(
  tensors: readonly { name: string; dtype: TensorDtype; shape: readonly number[] }[],
  metadata: Readonly<Record<string, string>>,
  bytes?: number,
): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    const size = elementCount(shape) * DTYPE_BYTES[dtype];
    header[name] = { dtype, shape, data_offsets: [end, end + size] };
    end += size;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const out = new Uint8Array(bytes ?? 8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  dataView(out).setBigUint64(0, BigInt(out.length - 8), true);
  out.set(json, 8);
  return out;
}

function parseHeader(source: ByteSource, json: Uint8Array, dataStart: number): SafetensorsHeader {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
  } catch (cause) {
    throw bad(source, "a JSON header", cause instanceof Error ? cause.message : "something else", cause);
  }
  if (!isRecord(header)) throw bad(source, "a JSON object as header", typeof header);
  const metadata: Record<string, string> = {};
  const tensors = new Map<string, SafetensorsEntry>();
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") {
      if (!isRecord(value)) throw bad(source, "metadata as an object", typeof value);
      for (const [key, text] of Object.entries(value)) {
        if (typeof text !== "string") throw bad(source, `metadata ${key} as a string`, typeof text);
        metadata[key] = text;
      }
    } else {
      tensors.set(name, parseEntry(source, name, value, dataStart));
    }
  }
  // Ranges must tile the data: no overlap, no hole, no rest, as the reference demands.
  let end = dataStart;
  for (const entry of [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (entry.offset !== end)
      throw bad(
        source,
        `tensor ${entry.name} at byte ${end - dataStart} of the data`,
        `${entry.offset - dataStart}`,
      );
    end += entry.bytes;
  }
  if (end !== source.size)
    throw bad(source, `${end} bytes in all, as the header adds up`, `${source.size} bytes`);
  return { metadata, tensors };
}

function parseEntry(source: ByteSource, name: string, value: unknown, dataStart: number): SafetensorsEntry {
  if (!isRecord(value)) throw bad(source, `tensor ${name} as an object`, typeof value);
  const { dtype, shape, data_offsets: range } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BYTES, dtype))
    throw bad(
      source,
      `tensor ${name} of a dtype among ${Object.keys(DTYPE_BYTES).join(", ")}`,
      String(dtype),
    );
  if (!Array.isArray(shape) || shape.length > 16 || Number.isNaN(elementCount(shape)))
    throw bad(source, `tensor ${name} with a shape of natural numbers`, JSON.stringify(shape)?.slice(0, 80));
  if (!Array.isArray(range) || range.length !== 2 || Number.isNaN(elementCount(range.slice(0, 1))))
    throw bad(source, `tensor ${name} with two data offsets`, JSON.stringify(range)?.slice(0, 80));
  const [begin, end] = range as [number, number];
  const bytes = elementCount(shape) * DTYPE_BYTES[dtype as TensorDtype];
  if (end !== begin + bytes)
    throw bad(
      source,
      `tensor ${name}: ${bytes} bytes for ${dtype} [${shape.join(", ")}]`,
      `${end - begin} bytes`,
    );
  if (!Number.isSafeInteger(end) || dataStart + end > source.size)
    throw bad(
      source,
      `tensor ${name} inside the file`,
      `data up to byte ${dataStart + end} of ${source.size}`,
    );
  return { name, dtype: dtype as TensorDtype, shape, offset: dataStart + begin, bytes };
}

function bad(source: ByteSource, expected: string, got: string | undefined, cause?: unknown): DataError {
  return new DataError("ERR_SAFETENSORS", `${source.name}: expected ${expected}, got ${got ?? "nothing"}`, {
    details: { file: source.name, expected, got },
    remedies: ["Get the file again: it is damaged, cut short, or not a safetensors file."],
    cause,
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function dataView(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function list(names: readonly string[]): string {
  return names.length > 8 ? `${names.slice(0, 8).join(", ")} and ${names.length - 8} more` : names.join(", ");
}
