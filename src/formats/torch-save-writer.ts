// SPDX-License-Identifier: Apache-2.0
// Writes torch.save files that torch.load(weights_only=True) reads.

import { DataError, describe } from "../errors.ts";
import { elementCount, type FormatTensor, makeTensor } from "./tensor.ts";
import { TORCH_STORAGES, type TorchValue } from "./torch-save.ts";
import { writeStoredZip } from "./zip.ts";

/** What can be written: plain objects stand for dictionaries with string keys, too. */
export type TorchInput =
  | null
  | boolean
  | number
  | bigint
  | string
  | FormatTensor
  | readonly TorchInput[]
  | ReadonlyMap<string | number | boolean | null, TorchInput>
  | { readonly [key: string]: TorchInput }
  | TorchValue;

/**
 * The bytes of a file. Whole numbers become int, others float; arrays become lists. Throws
 * ERR_TORCH_SAVE for other values and for dtypes torch lacks.
 */
export function writeTorchSave(value: TorchInput): Uint8Array {
  const pickler = new Pickler();
  pickler.value(value, 0);
  return writeStoredZip([
    { name: "archive/data.pkl", bytes: pickler.finish() },
    { name: "archive/byteorder", bytes: encode("little") },
    ...pickler.storages.map((data, key) => ({ name: `archive/data/${key}`, bytes: data })),
    { name: "archive/version", bytes: encode("3\n") },
  ]);
}

class Pickler {
  readonly storages: Uint8Array[] = [];
  private readonly parts: Uint8Array[] = [encode2(0x80, 2)];
  private readonly keys = new Map<Uint8Array, number>();

  value(value: TorchInput, depth: number): void {
    if (depth > 200) throw unsupported("values nested at most 200 deep", "deeper ones");
    if (value === null) this.op("N");
    else if (typeof value === "boolean") this.parts.push(encode2(value ? 0x88 : 0x89));
    else if (typeof value === "string") this.string(value);
    else if (typeof value === "bigint") this.integer(value);
    else if (typeof value === "number") this.number(value);
    else if (isTensor(value)) this.tensor(value);
    else if (Array.isArray(value)) {
      this.op("](");
      for (const item of value) this.value(item, depth + 1);
      this.op("e");
    } else if (value instanceof Map || isPlain(value)) {
      this.op("}(");
      for (const [key, item] of value instanceof Map ? value : Object.entries(value)) {
        this.value(key, depth + 1);
        this.value(item, depth + 1);
      }
      this.op("u");
    } else {
      throw unsupported("tensors, lists, dictionaries, strings, numbers and null", describe(value));
    }
  }

  finish(): Uint8Array {
    this.op(".");
    const out = new Uint8Array(this.parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }

  // torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())
  private tensor(tensor: FormatTensor): void {
    const { dtype, shape, data } = makeTensor(tensor.dtype, tensor.shape, tensor.data);
    const storage = Object.entries(TORCH_STORAGES).find(([, name]) => name === dtype)?.[0];
    if (!storage) throw unsupported("a dtype that torch's storages have", dtype);
    let key = this.keys.get(tensor.data);
    if (key === undefined) {
      key = this.storages.push(data) - 1;
      this.keys.set(tensor.data, key);
    }
    const strides = shape.map((_, d) => elementCount(shape.slice(d + 1)));
    this.op("ctorch._utils\n_rebuild_tensor_v2\n((");
    this.string("storage");
    this.op(`ctorch\n${storage}\n`);
    this.string(String(key));
    this.string("cpu");
    this.integer(BigInt(elementCount(shape)));
    this.op("tQK");
    this.parts.push(encode2(0));
    this.tuple(shape);
    this.tuple(strides);
    this.parts.push(encode2(0x89));
    this.op("ccollections\nOrderedDict\n)RtR");
  }

  private tuple(values: readonly number[]): void {
    this.op("(");
    for (const value of values) this.integer(BigInt(value));
    this.op("t");
  }

  private string(text: string): void {
    const bytes = encode(text);
    const head = new Uint8Array(5);
    head[0] = 0x58;
    new DataView(head.buffer).setUint32(1, bytes.length, true);
    this.parts.push(head, bytes);
  }

  private number(value: number): void {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
      this.integer(BigInt(value));
      return;
    }
    const bytes = new Uint8Array(9);
    bytes[0] = 0x47;
    new DataView(bytes.buffer).setFloat64(1, value, false);
    this.parts.push(bytes);
  }

  private integer(value: bigint): void {
    if (value >= -(2n ** 31n) && value < 2n ** 31n) {
      const bytes = new Uint8Array(5);
      bytes[0] = 0x4a;
      new DataView(bytes.buffer).setInt32(1, Number(value), true);
      this.parts.push(bytes);
      return;
    }
    if (value < -(2n ** 63n) || value >= 2n ** 63n) throw unsupported("integers of 64 bits", `${value}`);
    const bytes = new Uint8Array(10);
    bytes.set([0x8a, 8]);
    new DataView(bytes.buffer).setBigInt64(2, value, true);
    this.parts.push(bytes);
  }

  private op(text: string): void {
    this.parts.push(encode(text));
  }
}

function isTensor(value: object): value is FormatTensor {
  return "data" in value && value.data instanceof Uint8Array && "dtype" in value && "shape" in value;
}

function isPlain(value: object): value is { readonly [key: string]: TorchInput } {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function encode2(...bytes: number[]): Uint8Array {
  return Uint8Array.from(bytes);
}

function unsupported(expected: string, got: string): DataError {
  return new DataError("ERR_TORCH_SAVE", `torch.save: expected ${expected}, got ${got}`);
}
