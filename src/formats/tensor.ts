// SPDX-License-Identifier: Apache-2.0
// A tensor as files hold it: dtype, shape and raw little-endian bytes, row-major. All formats of this
// folder read into and write from this one value.

import { DataError } from "../errors.ts";
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16 } from "./half.ts";

/** Dtypes by their safetensors names. */
export type TensorDtype =
  | "F64"
  | "F32"
  | "F16"
  | "BF16"
  | "I64"
  | "I32"
  | "I16"
  | "I8"
  | "U64"
  | "U32"
  | "U16"
  | "U8"
  | "BOOL";

export interface FormatTensor {
  readonly dtype: TensorDtype;
  /** Row-major, outermost first; [] is a scalar. */
  readonly shape: readonly number[];
  /** Little-endian elements; byteLength = elements x size of the dtype. */
  readonly data: Uint8Array;
}

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<TensorDtype, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};

/** Number of elements of a shape; NaN when it is no list of natural numbers or beyond 2^53. */
export function elementCount(shape: readonly unknown[]): number {
  let count = 1;
  for (const size of shape) {
    if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) return Number.NaN;
    count *= size;
  }
  return Number.isSafeInteger(count) ? count : Number.NaN;
}

/** A float32 tensor over the values (not copied). Throws ERR_TENSOR_SHAPE when they do not fill the shape. */
export function float32Tensor(
  values: Float32Array,
  shape: readonly number[] = [values.length],
): FormatTensor {
  return makeTensor("F32", shape, asBytes(values));
}

/** A tensor over raw bytes. Throws ERR_TENSOR_SHAPE. */
export function makeTensor(dtype: TensorDtype, shape: readonly number[], data: Uint8Array): FormatTensor {
  const expected = elementCount(shape) * DTYPE_BYTES[dtype];
  if (data.byteLength === expected) return { dtype, shape: [...shape], data };
  throw new DataError(
    "ERR_TENSOR_SHAPE",
    `a ${dtype} tensor of shape [${shape.join(", ")}] takes ${expected} bytes, got ${data.byteLength}`,
    { details: { dtype, shape: [...shape], bytes: data.byteLength } },
  );
}

/** Values as float32: a new array, or a view of F32 data that is aligned. */
export function toFloat32(tensor: FormatTensor): Float32Array {
  const { dtype, data } = tensor;
  switch (dtype) {
    case "F32":
      return view(data, Float32Array);
    case "F16":
      return float16ToFloat32(view(data, Uint16Array));
    case "BF16":
      return bfloat16ToFloat32(view(data, Uint16Array));
    case "I64":
      return Float32Array.from(view(data, BigInt64Array), Number);
    case "U64":
      return Float32Array.from(view(data, BigUint64Array), Number);
    default:
      return Float32Array.from(numbers(tensor));
  }
}

/** Integer values as numbers. Throws ERR_TENSOR_DTYPE for floats and for values beyond 2^53. */
export function toIntegers(tensor: FormatTensor): number[] {
  const { dtype, data } = tensor;
  if (dtype === "I64" || dtype === "U64") {
    const wide = dtype === "I64" ? view(data, BigInt64Array) : view(data, BigUint64Array);
    return Array.from(wide, (value) => {
      const number = Number(value);
      if (!Number.isSafeInteger(number))
        throw new DataError("ERR_TENSOR_DTYPE", `integer ${value} is beyond 2^53`, { details: { dtype } });
      return number;
    });
  }
  if (dtype.startsWith("F") || dtype === "BF16")
    throw new DataError("ERR_TENSOR_DTYPE", `expected an integer tensor, got ${dtype}`, {
      details: { dtype },
    });
  return Array.from(numbers(tensor));
}

/** float32 values as a tensor of a float dtype, rounded to nearest even. */
export function fromFloat32(
  values: Float32Array,
  dtype: "F32" | "F16" | "BF16" | "F64",
  shape: readonly number[] = [values.length],
): FormatTensor {
  if (dtype === "F32") return float32Tensor(values, shape);
  if (dtype === "F64") return makeTensor(dtype, shape, asBytes(Float64Array.from(values)));
  const bits = dtype === "F16" ? float32ToFloat16(values) : float32ToBfloat16(values);
  return makeTensor(dtype, shape, asBytes(bits));
}

/** The bytes of a typed array, not copied. */
export function asBytes(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

type TypedArrayClass<T> = {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, offset: number, length: number): T;
};

// File offsets need not be aligned to the element; typed arrays have to be.
function view<T>(data: Uint8Array, kind: TypedArrayClass<T>): T {
  const aligned = data.byteOffset % kind.BYTES_PER_ELEMENT === 0 ? data : data.slice();
  return new kind(aligned.buffer, aligned.byteOffset, aligned.byteLength / kind.BYTES_PER_ELEMENT);
}

function numbers(tensor: FormatTensor): Iterable<number> & ArrayLike<number> {
  const { data } = tensor;
  switch (tensor.dtype) {
    case "F64":
      return view(data, Float64Array);
    case "I32":
      return view(data, Int32Array);
    case "U32":
      return view(data, Uint32Array);
    case "I16":
      return view(data, Int16Array);
    case "U16":
      return view(data, Uint16Array);
    case "I8":
      return view(data, Int8Array);
    default:
      return data;
  }
}
