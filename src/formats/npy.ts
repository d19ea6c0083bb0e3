// SPDX-License-Identifier: Apache-2.0
// NumPy .npy files, versions 1 to 3, little-endian, both memory orders read, C order written. The header
// is a Python literal; only the dictionary numpy writes is understood, nothing is evaluated.
// Format: numpy.lib.format.

import { DataError } from "../errors.ts";
import { type ByteSource, withSource } from "./byte-source.ts";
import { DTYPE_BYTES, elementCount, type FormatTensor, makeTensor, type TensorDtype } from "./tensor.ts";

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
const MAX_HEADER = 1 << 16;

const DTYPES: Readonly<Record<string, TensorDtype>> = {
  "<f8": "F64",
  "<f4": "F32",
  "<f2": "F16",
  "<i8": "I64",
  "<i4": "I32",
  "<i2": "I16",
  "|i1": "I8",
  "<u8": "U64",
  "<u4": "U32",
  "<u2": "U16",
  "|u1": "U8",
  "|b1": "BOOL",
};

/** Reads an array. Throws ERR_NPY (damaged, big-endian, structured or object dtypes). */
export function readNpy(source: string | Uint8Array | ByteSource): FormatTensor {
  return withSource(source, ".npy bytes", (bytes) => {
    if (bytes.size < 10) throw bad(bytes, "a .npy header", `${bytes.size} bytes`);
    const start = bytes.read(0, Math.min(12, bytes.size));
    if (MAGIC.some((byte, i) => start[i] !== byte))
      throw bad(bytes, "the .npy magic at the start", "another file");
    const version = start[6]!;
    if (version < 1 || version > 3) throw bad(bytes, ".npy version 1 to 3", `version ${version}`);
    const prefix = version === 1 ? 10 : 12;
    if (bytes.size < prefix) throw bad(bytes, "a .npy header", `${bytes.size} bytes`);
    const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
    const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
    if (length > MAX_HEADER || prefix + length > bytes.size)
      throw bad(bytes, "a header inside the file", `a header of ${length} bytes`);
    const text = new TextDecoder(version === 3 ? "utf-8" : "latin1").decode(bytes.read(prefix, length));
    const { dtype, fortran, shape } = parseHeader(bytes, text);
    const size = elementCount(shape) * DTYPE_BYTES[dtype];
    if (Number.isNaN(size) || prefix + length + size > bytes.size)
      throw bad(
        bytes,
        `${size} bytes of data for ${dtype} [${shape.join(", ")}]`,
        `${bytes.size - prefix - length}`,
      );
    const data = bytes.read(prefix + length, size);
    return makeTensor(dtype, shape, fortran ? toRowMajor(data, shape, DTYPE_BYTES[dtype]) : data);
  });
}

/** The bytes of a file, version 1. Throws ERR_NPY for BF16, which numpy lacks. */
export function writeNpy(tensor: FormatTensor): Uint8Array {
  const { dtype, shape, data } = makeTensor(tensor.dtype, tensor.shape, tensor.data);
  const header = npyHeader(dtype, shape);
  const out = new Uint8Array(header.length + data.byteLength);
  out.set(header);
  out.set(data, header.length);
  return out;
}

/**
 * What stands before the data, for files that are written piece by piece. `bytes`: what it has to fill, a
 * multiple of 64; default as little as does. Throws ERR_NPY for BF16.
 */
export function npyHeader(dtype: TensorDtype, shape: readonly number[], bytes?: number): Uint8Array {
  const descr = Object.entries(DTYPES).find(([, name]) => name === dtype)?.[0];
  if (!descr)
    throw new DataError("ERR_NPY", `.npy cannot hold ${dtype}`, { remedies: ["Convert to F32 first."] });
  const list = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${list}), }`;
  // The data begin at a multiple of 64, the header ends in a newline.
  const out = new Uint8Array(bytes ?? Math.ceil((10 + header.length + 1) / 64) * 64);
  const length = out.length - 10;
  out.set([...MAGIC, 1, 0, length & 255, length >> 8]);
  out.set(new TextEncoder().encode(`${header.padEnd(length - 1)}\n`), 10);
  return out;
}

function parseHeader(
  source: ByteSource,
  text: string,
): { dtype: TensorDtype; fortran: boolean; shape: number[] } {
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(text)?.[1];
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const sizes = /'shape'\s*:\s*\(([\d\s,L]*)\)/.exec(text)?.[1];
  if (descr === undefined || !Object.hasOwn(DTYPES, descr))
    throw bad(
      source,
      `a dtype among ${Object.keys(DTYPES).join(" ")}`,
      descr ?? "a structured or absent one",
    );
  if (order === undefined || sizes === undefined)
    throw bad(source, "fortran_order and shape in the header", text.slice(0, 80));
  const shape = sizes
    .split(",")
    .map((size) => size.trim().replace("L", ""))
    .filter((size) => size !== "")
    .map(Number);
  if (shape.length > 32 || Number.isNaN(elementCount(shape)))
    throw bad(source, "a possible shape", `(${sizes})`);
  return { dtype: DTYPES[descr]!, fortran: order === "True", shape };
}

function toRowMajor(data: Uint8Array, shape: readonly number[], size: number): Uint8Array {
  const out = new Uint8Array(data.byteLength);
  const index = new Array<number>(shape.length).fill(0);
  const count = elementCount(shape);
  for (let at = 0; at < count; at++) {
    // Position of `index` in column-major order.
    let from = 0;
    for (let d = shape.length - 1; d >= 0; d--) from = from * shape[d]! + index[d]!;
    out.set(data.subarray(from * size, from * size + size), at * size);
    for (let d = shape.length - 1; d >= 0; d--) {
      index[d]! += 1;
      if (index[d]! < shape[d]!) break;
      index[d] = 0;
    }
  }
  return out;
}

function bad(source: ByteSource, expected: string, got: string): DataError {
  return new DataError("ERR_NPY", `${source.name}: expected ${expected}, got ${got}`, {
    details: { file: source.name, expected, got },
    remedies: ["Write it again with numpy.save(path, array.astype('float32'))."],
  });
}
