// SPDX-License-Identifier: Apache-2.0
// File formats: what Python wrote is read, what is written comes back, what lies is refused.
// tests/golden/formats was made once with torch 2.11, numpy, safetensors and gguf (see its README).

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { bytesSource } from "../../src/formats/byte-source.ts";
import { readGgufHeader, readGgufTensors } from "../../src/formats/gguf.ts";
import { writeGguf } from "../../src/formats/gguf-writer.ts";
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
} from "../../src/formats/half.ts";
import { readNpy, writeNpy } from "../../src/formats/npy.ts";
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from "../../src/formats/safetensors.ts";
import {
  type FormatTensor,
  float32Tensor,
  fromFloat32,
  toFloat32,
  toIntegers,
} from "../../src/formats/tensor.ts";
import { readTorchSave } from "../../src/formats/torch-save.ts";
import { writeTorchSave } from "../../src/formats/torch-save-writer.ts";
import { readZipDirectory, readZipEntry, writeStoredZip } from "../../src/formats/zip.ts";

const golden = (name: string) => fileURLToPath(new URL(`../golden/formats/${name}`, import.meta.url));
const bytesOf = (name: string) => new Uint8Array(readFileSync(golden(name)));
const code = (expected: string) => expect.objectContaining({ code: expected });

describe("half precision", () => {
  test("every float16 comes back from float32", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const back = float32ToFloat16(float16ToFloat32(bits));
    for (let i = 0; i < 65536; i++) {
      const isNan = (i & 0x7fff) > 0x7c00;
      if (isNan ? (back[i]! & 0x7fff) <= 0x7c00 : back[i] !== i) throw new Error(`${i} -> ${back[i]}`);
    }
  });

  test("every bfloat16 comes back from float32", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const back = float32ToBfloat16(bfloat16ToFloat32(bits));
    for (let i = 0; i < 65536; i++) {
      const isNan = (i & 0x7fff) > 0x7f80;
      if (isNan ? (back[i]! & 0x7fff) <= 0x7f80 : back[i] !== i) throw new Error(`${i} -> ${back[i]}`);
    }
  });

  test("rounds to nearest, ties to even, overflows to infinity", () => {
    const values = Float32Array.of(2049, 2051, 65519, 65520, 2 ** -25, 1.5 * 2 ** -24, -(2 ** -14));
    expect([...float16ToFloat32(float32ToFloat16(values))]).toEqual([
      2048,
      2052,
      65504,
      Number.POSITIVE_INFINITY,
      0,
      2 ** -23,
      -(2 ** -14),
    ]);
    const near = Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38);
    expect([...bfloat16ToFloat32(float32ToBfloat16(near))]).toEqual([
      1,
      1 + 2 ** -6,
      Number.POSITIVE_INFINITY,
    ]);
  });
});

describe("safetensors", () => {
  test("reads what the reference wrote, and writes the same bytes", () => {
    const file = readSafetensors(golden("reference.safetensors"));
    expect(file.metadata).toEqual({ op: "add" });
    expect([...toFloat32(file.tensors.get("a")!)]).toEqual([1.5, 2]);
    expect(toIntegers(file.tensors.get("b")!)).toEqual([1, 2, 3]);
    expect([...toFloat32(file.tensors.get("h")!)]).toEqual([1, -0]);
    expect(Buffer.from(writeSafetensors(file.tensors, file.metadata))).toEqual(
      readFileSync(golden("reference.safetensors")),
    );
  });

  const file = (header: unknown, data = 8) => {
    const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
    const out = new Uint8Array(8 + json.length + data);
    new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true);
    out.set(json, 8);
    return out;
  };
  const tensor = (dtype: unknown, shape: unknown, range: unknown) => ({
    x: { dtype, shape, data_offsets: range },
  });

  test.each<[string, Uint8Array]>([
    ["empty", new Uint8Array(0)],
    ["a header beyond the file", Uint8Array.of(255, 0, 0, 0, 0, 0, 0, 0, 123, 125)],
    ["a header of 2^63 bytes", Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 128, 123, 125)],
    ["no JSON", file("{x")],
    ["a list", file("[]")],
    ["an unknown dtype", file(tensor("F31", [2], [0, 8]))],
    ["a dtype named like a method", file(tensor("toString", [2], [0, 8]))],
    ["a negative size", file(tensor("F32", [-2], [0, 8]))],
    ["a shape that overflows", file(tensor("F32", [2 ** 52, 2 ** 52], [0, 8]))],
    ["bytes that do not fit the shape", file(tensor("F32", [3], [0, 8]))],
    ["a range beyond the file", file(tensor("F32", [4], [0, 16]))],
    ["a range that begins late", file(tensor("F32", [1], [4, 8]))],
    ["bytes left over", file(tensor("F32", [1], [0, 4]))],
    ["fractional offsets", file(tensor("F32", [2], [0.5, 8.5]))],
    [
      "overlapping tensors",
      file({ ...tensor("F32", [2], [0, 8]), y: { dtype: "F32", shape: [1], data_offsets: [4, 8] } }),
    ],
    ["metadata that is no text", file({ __metadata__: { a: 1 }, ...tensor("F32", [2], [0, 8]) })],
  ])("refuses %s", (_, bytes) => {
    expect(() => readSafetensors(bytes)).toThrowError(code("ERR_SAFETENSORS"));
  });

  test("a tensor without elements and a scalar are tensors", () => {
    const tensors = {
      none: float32Tensor(new Float32Array(0), [0, 5]),
      one: float32Tensor(Float32Array.of(7), []),
    };
    const back = readSafetensors(writeSafetensors(tensors)).tensors;
    expect(back.get("none")!.shape).toEqual([0, 5]);
    expect([...toFloat32(back.get("one")!)]).toEqual([7]);
  });
});

describe("GGUF", () => {
  test("reads what the gguf package wrote", () => {
    const { metadata, tensors } = readGgufTensors(golden("control.gguf"));
    expect(metadata.get("controlvector.layer_count")).toBe(2);
    expect(metadata.get("x.list")).toEqual([1, 2, 3]);
    expect(metadata.get("x.b")).toBe(true);
    expect([...toFloat32(tensors.get("direction.1")!)]).toEqual([1, 2, 3]);
    expect(tensors.get("direction.2")!.shape).toEqual([2, 2]);
    expect([...toFloat32(tensors.get("direction.2")!)]).toEqual([4, 5, 6, 7]);
  });

  test("what is written comes back", () => {
    const tensors = new Map<string, FormatTensor>([
      ["direction.1", float32Tensor(Float32Array.of(1, 2, 3))],
      ["direction.2", fromFloat32(Float32Array.of(1, 2, 3, 4, 5, 6), "F16", [2, 3])],
    ]);
    const bytes = writeGguf(
      {
        "general.architecture": { type: "string", value: "controlvector" },
        big: { type: "uint64", value: 2n ** 60n },
        names: { type: "array", element: "string", value: ["ä", ""] },
        negative: { type: "int8", value: -3 },
        ratio: { type: "float64", value: 0.1 },
      },
      tensors,
    );
    const back = readGgufTensors(bytes);
    expect(Object.fromEntries(back.metadata)).toEqual({
      "general.architecture": "controlvector",
      big: 2n ** 60n,
      names: ["ä", ""],
      negative: -3,
      ratio: 0.1,
    });
    for (const [name, tensor] of tensors) {
      expect(back.tensors.get(name)!.shape).toEqual(tensor.shape);
      expect(Buffer.from(back.tensors.get(name)!.data)).toEqual(Buffer.from(tensor.data));
    }
  });

  test("a count of things that cannot be there is refused before anything is allocated", () => {
    const bytes = bytesOf("control.gguf");
    for (const at of [8, 16]) {
      const lying = bytes.slice();
      new DataView(lying.buffer).setBigUint64(at, 2n ** 40n, true);
      expect(() => readGgufHeader(lying)).toThrowError(code("ERR_GGUF"));
    }
  });

  test("a file cut anywhere is refused", () => {
    const bytes = bytesOf("control.gguf");
    for (let length = 0; length < bytes.length - 32; length += 7)
      expect(() => readGgufTensors(bytes.subarray(0, length))).toThrowError(code("ERR_GGUF"));
  });
});

describe(".npy", () => {
  test("column-major files come out row-major", () => {
    const array = readNpy(golden("fortran.npy"));
    expect(array.shape).toEqual([2, 3]);
    expect([...toFloat32(array)]).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test.each([[[]], [[5]], [[2, 3]], [[0, 4]]])("shape %j comes back", (shape: number[]) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const tensor = float32Tensor(
      Float32Array.from({ length: count }, (_, i) => i / 3),
      shape,
    );
    const bytes = writeNpy(tensor);
    expect((bytes.length - count * 4) % 64).toBe(0);
    expect(readNpy(bytes)).toEqual({ ...tensor, data: expect.anything() });
    expect([...toFloat32(readNpy(bytes))]).toEqual([...toFloat32(tensor)]);
  });

  test("object arrays, big-endian ones and cut files are refused", () => {
    const text = (replace: [string, string]) =>
      new Uint8Array(
        Buffer.from(
          Buffer.from(bytesOf("fortran.npy"))
            .toString("latin1")
            .replace(...replace),
          "latin1",
        ),
      );
    for (const bytes of [
      text(["'<f4'", "'|O' "]),
      text(["'<f4'", "'>f4'"]),
      text(["(2, 3)", "(9, 9)"]),
      bytesOf("fortran.npy").subarray(0, 100),
      new Uint8Array(3),
    ])
      expect(() => readNpy(bytes)).toThrowError(code("ERR_NPY"));
  });
});

describe("torch.save", () => {
  test("reads what torch wrote: dtypes, views, nested containers", () => {
    const root = readTorchSave(golden("torch-save.pt")) as ReadonlyMap<string, never>;
    const values = (name: string) => [...toFloat32(root.get(name)!)];
    expect(values("steering_vector")).toEqual([1, -2.5, 3.25]);
    expect(values("half")).toEqual([1.5, 65504, -(2 ** -24)]);
    expect(values("bf16")).toEqual([1, 3.140625]);
    expect(values("double")).toEqual([Math.fround(0.1)]);
    expect(toIntegers(root.get("ids")!)).toEqual([1, -(2 ** 40)]);
    expect(values("t")).toEqual([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
    expect(values("row")).toEqual([4, 5, 6, 7]);
    expect(values("col")).toEqual([2, 6, 10]);
    expect((root.get("empty") as FormatTensor).shape).toEqual([0, 3]);
    expect(values("scalar")).toEqual([4]);
    expect([...(root.get("layers") as ReadonlyMap<number, unknown>).keys()]).toEqual([16, 17]);
    expect([...(root.get("ordered") as ReadonlyMap<string, unknown>).keys()]).toEqual(["b", "a"]);
    expect(Object.fromEntries(root.get("meta")!)).toEqual({
      name: "happy",
      scale: 0.5,
      n: 3,
      big: 2n ** 62n + 1n,
      none: null,
      ok: true,
      list: [1, "two", [3, 4]],
      neg: -7,
    });
  });

  test("a call of anything else is refused by name and not made", () => {
    expect(() => readTorchSave(golden("hostile.pt"))).toThrowError(/posix\.system|nt\.system|os\.system/);
    expect(() => readTorchSave(golden("hostile.pt"))).toThrowError(code("ERR_TORCH_SAVE"));
  });

  test("what is written comes back, shared storages once", () => {
    const shared = float32Tensor(Float32Array.of(1, 2, 3, 4), [2, 2]);
    const bytes = writeTorchSave({
      a: shared,
      b: shared,
      f16: fromFloat32(Float32Array.of(0.5), "F16"),
      nested: [1, -2.5, "x", null, true, { deep: [2n ** 40n] }],
      byLayer: new Map([[3, float32Tensor(Float32Array.of(9))]]),
    });
    const records = [...readZipDirectory(bytes).keys()].filter((name) => name.includes("/data/"));
    expect(records).toHaveLength(3);
    const root = readTorchSave(bytes) as ReadonlyMap<string, never>;
    expect((root.get("a") as FormatTensor).shape).toEqual([2, 2]);
    expect([...toFloat32(root.get("b")!)]).toEqual([1, 2, 3, 4]);
    const nested = root.get("nested") as unknown[];
    expect(nested.slice(0, 5)).toEqual([1, -2.5, "x", null, true]);
    expect((nested[5] as Map<string, unknown>).get("deep")).toEqual([2 ** 40]);
    expect([...toFloat32((root.get("byLayer") as ReadonlyMap<number, never>).get(3)!)]).toEqual([9]);
  });

  test("a tensor that claims more than its storage is refused", () => {
    const bytes = writeTorchSave({ x: float32Tensor(new Float32Array(4)) });
    const source = bytesSource(bytes, "x");
    const entries = [...readZipDirectory(bytes).values()].map((entry) => ({
      name: entry.name,
      bytes: readZipEntry(source, entry).slice(),
    }));
    const pickle = entries.find((entry) => entry.name.endsWith("data.pkl"))!.bytes;
    // The size (4,) stands last as J 04 00 00 00; 5 elements are not there.
    const at = Buffer.from(pickle).lastIndexOf(Buffer.from([0x4a, 4, 0, 0, 0]));
    pickle[at + 1] = 5;
    expect(() => readTorchSave(writeStoredZip(entries))).toThrowError(code("ERR_TORCH_SAVE"));
  });

  test("the format before torch 1.6 and other files are refused with the way out", () => {
    expect(() => readTorchSave(Uint8Array.of(0x80, 2, 0x8a, 10))).toThrowError(/torch 1\.6/);
    expect(() => readTorchSave(bytesOf("torch-save.pt").subarray(0, 2000))).toThrowError(code("ERR_ZIP"));
  });
});

describe("mutated files", () => {
  // A fixed generator, so that a failure can be found again.
  function* random(seed: number): Generator<number> {
    let state = seed;
    for (;;) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      yield state / 2 ** 32;
    }
  }

  test.each<[string, (bytes: Uint8Array) => unknown]>([
    ["reference.safetensors", readSafetensors],
    ["control.gguf", readGgufTensors],
    ["fortran.npy", readNpy],
    ["torch-save.pt", readTorchSave],
  ])("%s: 5,000 mutations give a result or a typed error, never another", (name, read) => {
    const original = bytesOf(name);
    const numbers = random(name.length);
    const next = () => numbers.next().value as number;
    let refused = 0;
    for (let round = 0; round < 5000; round++) {
      const bytes = original.slice(0, next() < 0.2 ? Math.floor(next() * original.length) : original.length);
      for (let i = 0; i < 1 + next() * 4 && bytes.length > 0; i++) {
        // Headers are where lies are told.
        const within = next() < 0.7 ? Math.min(bytes.length, 600) : bytes.length;
        bytes[Math.floor(next() * within)] = next() < 0.3 ? 255 : Math.floor(next() * 256);
      }
      try {
        read(bytes);
      } catch (error) {
        refused++;
        if (!/^ERR_/.test((error as { code?: string }).code ?? "")) throw error;
      }
    }
    expect(refused).toBeGreaterThan(500);
  });
});

describe("zip", () => {
  test("two entries of one name, a wrong CRC and a lying size are refused", () => {
    const twice = writeStoredZip([
      { name: "a", bytes: Uint8Array.of(1) },
      { name: "a", bytes: Uint8Array.of(2) },
    ]);
    expect(() => readZipDirectory(twice)).toThrowError(code("ERR_ZIP"));
    const one = writeStoredZip([{ name: "a", bytes: Uint8Array.of(1, 2, 3) }]);
    const entry = readZipDirectory(one).get("a")!;
    const flipped = one.slice();
    flipped[64] = 9;
    expect(() => readZipEntry(bytesSource(flipped, "x"), entry)).toThrowError(code("ERR_ZIP"));
    expect(() => readZipEntry(bytesSource(one, "x"), { ...entry, size: 2 })).toThrowError(code("ERR_ZIP"));
    expect(() => readSafetensorsHeader("/no/such/file")).toThrowError(code("ERR_FILE_UNREADABLE"));
  });
});
