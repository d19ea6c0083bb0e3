// SPDX-License-Identifier: Apache-2.0
// GGUF writer for small files of plain tensors, such as control vectors. Version 3, little-endian.

import { DataError } from "../errors.ts";
import { GGUF_TENSOR_TYPES, GGUF_VALUE_TYPES, type GgufValueType } from "./gguf-types.ts";
import { type FormatTensor, makeTensor } from "./tensor.ts";

/** A metadata value with its type in the file; an array names the type of its elements. */
export type GgufField =
  | { type: Exclude<GgufValueType, "array" | "string" | "bool">; value: number | bigint }
  | { type: "string"; value: string }
  | { type: "bool"; value: boolean }
  | {
      type: "array";
      element: Exclude<GgufValueType, "array">;
      value: readonly (number | bigint | string | boolean)[];
    };

const ALIGNMENT = 32;

/** The bytes of a file. Throws ERR_GGUF for a dtype that GGUF lacks (unsigned integers, bool). */
export function writeGguf(
  metadata: Readonly<Record<string, GgufField>>,
  tensors: ReadonlyMap<string, FormatTensor>,
): Uint8Array {
  const out = new Bytes();
  out.raw(new Uint8Array([0x47, 0x47, 0x55, 0x46]));
  out.number("uint32", 3);
  out.number("uint64", tensors.size);
  out.number("uint64", Object.keys(metadata).length);
  for (const [key, field] of Object.entries(metadata)) {
    out.string(key);
    out.number("uint32", GGUF_VALUE_TYPES.indexOf(field.type));
    if (field.type !== "array") {
      out.value(field.type, field.value);
      continue;
    }
    out.number("uint32", GGUF_VALUE_TYPES.indexOf(field.element));
    out.number("uint64", field.value.length);
    for (const value of field.value) out.value(field.element, value);
  }
  let offset = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    makeTensor(dtype, shape, data);
    const type = [...GGUF_TENSOR_TYPES].find(([, candidate]) => candidate.name === dtype)?.[0];
    if (type === undefined || shape.length > 4)
      throw new DataError("ERR_GGUF", `GGUF cannot hold tensor ${name}: ${dtype} [${shape.join(", ")}]`, {
        remedies: ["Write it as F32 of at most 4 dimensions, or as safetensors."],
      });
    out.string(name);
    out.number("uint32", shape.length);
    for (const size of [...shape].reverse()) out.number("uint64", size);
    out.number("uint32", type);
    out.number("uint64", offset);
    offset += Math.ceil(data.byteLength / ALIGNMENT) * ALIGNMENT;
  }
  out.pad();
  for (const { data } of tensors.values()) {
    out.raw(data);
    out.pad();
  }
  return out.finish();
}

class Bytes {
  private readonly parts: Uint8Array[] = [];
  private length = 0;

  raw(bytes: Uint8Array): void {
    this.parts.push(bytes);
    this.length += bytes.length;
  }

  pad(): void {
    this.raw(new Uint8Array((ALIGNMENT - (this.length % ALIGNMENT)) % ALIGNMENT));
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.number("uint64", bytes.length);
    this.raw(bytes);
  }

  value(type: Exclude<GgufValueType, "array">, value: number | bigint | string | boolean): void {
    if (type === "string") this.string(String(value));
    else if (type === "bool") this.raw(new Uint8Array([value ? 1 : 0]));
    else this.number(type, typeof value === "bigint" ? value : Number(value));
  }

  number(type: Exclude<GgufValueType, "array" | "string" | "bool">, value: number | bigint): void {
    const view = new DataView(new ArrayBuffer(8));
    const size = { "8": 1, "16": 2, "32": 4, "64": 8 }[type.replace(/^\D+/, "")] as number;
    if (type === "float32") view.setFloat32(0, Number(value), true);
    else if (type === "float64") view.setFloat64(0, Number(value), true);
    else view.setBigInt64(0, BigInt(value), true);
    this.raw(new Uint8Array(view.buffer, 0, size));
  }

  finish(): Uint8Array {
    const out = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }
}
