// SPDX-License-Identifier: Apache-2.0
// torch.save files, read and written: a zip with data.pkl and one record a storage. Tensors in nested
// dictionaries, lists and tuples with strings, numbers, booleans and None; everything else is refused by
// name. Python's torch.load(weights_only=True) reads what is written here.
// Format: torch/serialization.py.

import { DataError } from "../errors.ts";
import { type ByteSource, withSource } from "./byte-source.ts";
import { PickleGlobal, readPickle } from "./pickle.ts";
import { DTYPE_BYTES, elementCount, type FormatTensor, makeTensor, type TensorDtype } from "./tensor.ts";
import { readZipDirectory, readZipEntry, type ZipEntry, zipDataOffset } from "./zip.ts";

/** Dictionaries are Map, lists and tuples arrays, None null; integers beyond 2^53 are bigint. */
export type TorchValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | FormatTensor
  | readonly TorchValue[]
  | ReadonlyMap<string | number | boolean | null, TorchValue>;

/** Storage classes of torch by dtype. */
export const TORCH_STORAGES: Readonly<Record<string, TensorDtype>> = {
  FloatStorage: "F32",
  HalfStorage: "F16",
  BFloat16Storage: "BF16",
  DoubleStorage: "F64",
  LongStorage: "I64",
  IntStorage: "I32",
  ShortStorage: "I16",
  CharStorage: "I8",
  ByteStorage: "U8",
  BoolStorage: "BOOL",
};

interface Storage {
  dtype: TensorDtype;
  /** Number of elements. */
  count: number;
  /** Null when only places are asked for. */
  data: Uint8Array | null;
  /** Of the first element in the file. */
  offset: number;
}

/** Where one tensor of a state dictionary lies; offset is from the start of the file. */
export interface TorchEntry {
  readonly name: string;
  readonly dtype: TensorDtype;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
}

// A tensor whose data were not read.
class Place {
  readonly entry: Omit<TorchEntry, "name">;

  constructor(entry: Omit<TorchEntry, "name">) {
    this.entry = entry;
  }
}

/**
 * Reads a file. Tensors that share a storage share its bytes. Throws ERR_TORCH_SAVE (also for the format
 * before torch 1.6, which is no zip), ERR_ZIP.
 */
export function readTorchSave(source: string | Uint8Array | ByteSource): TorchValue {
  return withSource(source, "torch.save bytes", (bytes) => readRoot(bytes, "data") as TorchValue);
}

/**
 * The tensors of a state dictionary (a flat dictionary of tensors, such as pytorch_model.bin) by name,
 * without their data. Throws as readTorchSave, and for tensors that are not contiguous.
 */
export function readTorchSaveEntries(source: string | Uint8Array | ByteSource): Map<string, TorchEntry> {
  return withSource(source, "torch.save bytes", (bytes) => {
    const root = readRoot(bytes, "places");
    const entries = new Map<string, TorchEntry>();
    if (root instanceof Map)
      for (const [name, value] of root)
        if (typeof name === "string" && value instanceof Place) entries.set(name, { name, ...value.entry });
    if (entries.size === 0) throw bad(bytes.name, "a dictionary of tensors", "none in it");
    return entries;
  });
}

function readRoot(bytes: ByteSource, want: "data" | "places"): unknown {
  const head = bytes.read(0, Math.min(4, bytes.size));
  if (head[0] !== 0x50 || head[1] !== 0x4b)
    throw bad(bytes.name, "a torch.save file (a zip archive)", "another format", [
      "Save it again with torch 1.6 or newer.",
    ]);
  const entries = readZipDirectory(bytes);
  const pickle = [...entries.keys()].filter((name) => /^[^/]*\/data\.pkl$/.test(name));
  if (pickle.length !== 1)
    throw bad(bytes.name, "one data.pkl in the archive", `${pickle.length} in ${entries.size} entries`);
  if (entries.has(pickle[0]!.replace("data.pkl", "constants.pkl")))
    throw bad(bytes.name, "tensors saved by torch.save", "a TorchScript archive", ["Load it as a model."]);
  const reader = new Reader(bytes, entries, pickle[0]!.replace("data.pkl", ""), want);
  return readPickle(readZipEntry(bytes, entries.get(pickle[0]!)!), reader);
}

class Reader {
  readonly name: string;
  private readonly source: ByteSource;
  private readonly entries: ReadonlyMap<string, ZipEntry>;
  private readonly prefix: string;
  private readonly storages = new Map<string, Storage>();
  private readonly want: "data" | "places";
  private copied = 0;

  constructor(
    source: ByteSource,
    entries: ReadonlyMap<string, ZipEntry>,
    prefix: string,
    want: "data" | "places",
  ) {
    this.want = want;
    this.name = source.name;
    this.source = source;
    this.entries = entries;
    this.prefix = prefix;
    const order = entries.get(`${prefix}byteorder`);
    if (order && new TextDecoder().decode(readZipEntry(source, order)) !== "little")
      throw bad(this.name, "little-endian storages", "another byte order");
  }

  call(global: PickleGlobal, args: readonly unknown[]): unknown {
    switch (global.name) {
      case "torch._utils._rebuild_tensor_v2":
        return this.tensor(args);
      case "torch._utils._rebuild_parameter":
        return args[0];
      case "collections.OrderedDict":
        return this.ordered(args);
      case "torch.Size":
        return args[0];
      default:
        throw bad(this.name, "tensors, containers, strings and numbers alone", `a call of ${global.name}`, [
          "Only data is read; save plain tensors: torch.save({name: tensor.detach().cpu()}, path).",
        ]);
    }
  }

  persistent(id: unknown): Storage {
    if (!Array.isArray(id) || id.length < 5 || id[0] !== "storage" || !(id[1] instanceof PickleGlobal))
      throw bad(this.name, "a storage as persistent id", "something else");
    const dtype = TORCH_STORAGES[id[1].name.replace(/^torch\./, "")];
    const key = id[2];
    const count = id[4];
    if (!dtype) throw bad(this.name, `storages among ${Object.keys(TORCH_STORAGES).join(", ")}`, id[1].name);
    if (typeof key !== "string" || !/^\w+$/.test(key)) throw bad(this.name, "a storage key", String(key));
    const known = this.storages.get(key);
    if (known) return known;
    const entry = this.entries.get(`${this.prefix}data/${key}`);
    if (!entry) throw bad(this.name, `record data/${key}`, "none");
    if (typeof count !== "number" || entry.size !== count * DTYPE_BYTES[dtype])
      throw bad(this.name, `${count} elements of ${dtype} in data/${key}`, `${entry.size} bytes`);
    if (this.want === "places" && entry.method !== 0)
      throw bad(this.name, `data/${key} stored as it is`, "compressed", ["Save it again with torch.save."]);
    const storage: Storage = {
      dtype,
      count,
      data: this.want === "data" ? readZipEntry(this.source, entry) : null,
      offset: zipDataOffset(this.source, entry),
    };
    this.storages.set(key, storage);
    return storage;
  }

  private ordered(args: readonly unknown[]): Map<unknown, unknown> {
    const map = new Map<unknown, unknown>();
    const pairs = args[0] ?? [];
    if (!Array.isArray(pairs)) throw bad(this.name, "a list of pairs in OrderedDict", typeof pairs);
    for (const pair of pairs) {
      if (!Array.isArray(pair) || pair.length !== 2)
        throw bad(this.name, "a list of pairs in OrderedDict", "something else");
      map.set(pair[0], pair[1]);
    }
    return map;
  }

  // (storage, offset, size, stride, requires_grad, hooks), all in elements.
  private tensor(args: readonly unknown[]): FormatTensor | Place {
    const [storage, offset, shape, strides] = args as [Storage, number, number[], number[]];
    const isList = (value: unknown) => Array.isArray(value) && !Number.isNaN(elementCount(value));
    if (
      typeof storage?.count !== "number" ||
      !isList([offset]) ||
      !isList(shape) ||
      !isList(strides) ||
      shape.length !== strides.length
    )
      throw bad(this.name, "a tensor of a storage, offset, shape and strides", "something else");
    const size = DTYPE_BYTES[storage.dtype];
    const count = elementCount(shape);
    const available = storage.count;
    // The last element's index; strides beyond the storage and repeats of stride 0 are both bounded by it.
    const last = shape.reduce((sum, length, d) => sum + (length - 1) * strides[d]!, offset);
    if (count > 0 && (!(last < available) || count > available))
      throw bad(
        this.name,
        `a tensor inside its storage of ${available}`,
        `[${shape}] by [${strides}] at ${offset}`,
      );
    let step = 1;
    const contiguous = shape.every((_, i) => {
      const d = shape.length - 1 - i;
      const fits = shape[d]! <= 1 || strides[d] === step;
      step *= shape[d]!;
      return fits;
    });
    if (storage.data === null) {
      if (!contiguous && count > 0)
        throw bad(this.name, "contiguous tensors", `strides [${strides}] of [${shape}]`, [
          "Save {name: tensor.contiguous()}, or as safetensors.",
        ]);
      const at = storage.offset + offset * size;
      return new Place({ dtype: storage.dtype, shape: [...shape], offset: at, bytes: count * size });
    }
    if (count === 0) return makeTensor(storage.dtype, shape, new Uint8Array(0));
    if (contiguous)
      return makeTensor(storage.dtype, shape, storage.data.subarray(offset * size, (offset + count) * size));
    // Copies of one storage could be many: bounded by the size of the file.
    this.copied += count * size;
    if (this.copied > 4 * this.source.size + (64 << 20))
      throw bad(this.name, "strided tensors of about the file's size", `${this.copied} bytes`);
    return makeTensor(storage.dtype, shape, gather(storage.data, offset, shape, strides, size));
  }
}

function gather(
  data: Uint8Array,
  offset: number,
  shape: readonly number[],
  strides: readonly number[],
  size: number,
): Uint8Array {
  const count = elementCount(shape);
  const out = new Uint8Array(count * size);
  const index = new Array<number>(shape.length).fill(0);
  let from = offset;
  for (let at = 0; at < count; at++) {
    out.set(data.subarray(from * size, from * size + size), at * size);
    for (let d = shape.length - 1; d >= 0; d--) {
      index[d]! += 1;
      from += strides[d]!;
      if (index[d]! < shape[d]!) break;
      from -= strides[d]! * shape[d]!;
      index[d] = 0;
    }
  }
  return out;
}

function bad(file: string, expected: string, got: string, remedies: readonly string[] = []): DataError {
  return new DataError("ERR_TORCH_SAVE", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got },
    remedies,
  });
}
