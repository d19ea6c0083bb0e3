// SPDX-License-Identifier: Apache-2.0
// Embeddings as files and on the wire. to-torch*.pt of the goldens were read by Python once (see their
// README); what comes in is read strictly, and whatever is hostile is refused with a code.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { crc32, deflateRawSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { readNpy, writeNpy } from "../../src/formats/npy.ts";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { float32Tensor, makeTensor, toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { readTorchSave } from "../../src/formats/torch-save.ts";
import { writeTorchSave } from "../../src/formats/torch-save-writer.ts";
import { writeStoredZip } from "../../src/formats/zip.ts";
import type { CompressedPrompt } from "../../src/memory/compressor.ts";
import {
  decodePromptEmbeds,
  encodePromptEmbeds,
  parseTorchEmbeddings,
  readPromptEmbeddings,
  writePromptEmbeddings,
} from "../../src/memory/embedding-files.ts";

const golden = (name: string) =>
  new Uint8Array(readFileSync(fileURLToPath(new URL(`../golden/memory/${name}`, import.meta.url))));
const scratch = mkdtempSync(join(tmpdir(), "embeddings-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const code = (...names: string[]) =>
  expect.objectContaining({ code: expect.stringMatching(new RegExp(`^(${names.join("|")})$`)) });

const eighths = Float32Array.from({ length: 6 }, (_, i) => i / 8);
const prompt = { promptEmbeddings: eighths, shape: [2, 3] as const };
const compressed: CompressedPrompt = {
  prompt,
  tokens: Int32Array.of(7, 8),
  spans: [{ start: 1, end: 2, tokens: 3 }],
  provenance: { format: "chatspace-prompt-embeddings", chunk_size: "4" },
};

describe("files", () => {
  test(".npy is float32, C order, [tokens, hidden]", async () => {
    const path = join(scratch, "a.npy");
    await writePromptEmbeddings(path, compressed);
    const bytes = readFileSync(path);
    expect(bytes.toString("latin1", 10, 80)).toMatch(
      /^\{'descr': '<f4', 'fortran_order': False, 'shape': \(2, 3\), \}/,
    );
    expect(readNpy(path)).toMatchObject({ dtype: "F32", shape: [2, 3] });
    expect(readPromptEmbeddings(path)).toEqual({ prompt, provenance: {} });
  });

  test(".safetensors says what made it and keeps the token ids", async () => {
    const path = join(scratch, "a.safetensors");
    await writePromptEmbeddings(path, compressed);
    const { tensors, metadata } = readSafetensors(path);
    expect(metadata).toEqual(compressed.provenance);
    expect(toIntegers(tensors.get("input_ids")!)).toEqual([7, 8]);
    expect(readPromptEmbeddings(path)).toEqual({ prompt, provenance: compressed.provenance });
  });

  test(".pt is a tensor of torch.save; what torch wrote is read", async () => {
    const path = join(scratch, "a.pt");
    await writePromptEmbeddings(path, compressed);
    expect(new Uint8Array(readFileSync(path))).toEqual(golden("to-torch.pt"));
    expect(readPromptEmbeddings(path).prompt).toEqual(prompt);
    expect(parseTorchEmbeddings(golden("from-torch.pt"))).toEqual(prompt);
  });

  test("a leading one is dropped, float64 of numpy is rounded", () => {
    const three = join(scratch, "three.npy");
    writeFileSync(three, writeNpy(float32Tensor(eighths, [1, 2, 3])));
    expect(readPromptEmbeddings(three).prompt).toEqual(prompt);
    const double = join(scratch, "double.npy");
    writeFileSync(
      double,
      writeNpy(makeTensor("F64", [2, 3], new Uint8Array(Float64Array.from(eighths).buffer))),
    );
    expect(readPromptEmbeddings(double).prompt).toEqual(prompt);
  });

  test.each([
    ["of one dimension", [6]],
    ["of two prompts", [2, 1, 3]],
    ["without rows", [0, 3]],
  ])("an array %s is refused", (name, shape) => {
    const path = join(scratch, `${name}.npy`);
    writeFileSync(
      path,
      writeNpy(
        float32Tensor(
          eighths.slice(
            0,
            shape.reduce((a, b) => a * b),
          ),
          shape,
        ),
      ),
    );
    expect(() => readPromptEmbeddings(path)).toThrowError(code("ERR_PROMPT_EMBEDS_FILE"));
  });

  test("integers, NaN, two unnamed tensors, other endings and no file are refused", async () => {
    const path = (name: string) => join(scratch, name);
    writeFileSync(path("int.npy"), writeNpy(makeTensor("I32", [2, 3], new Uint8Array(24))));
    writeFileSync(path("nan.npy"), writeNpy(float32Tensor(Float32Array.of(1, 2, Number.NaN, 4), [2, 2])));
    writeFileSync(
      path("two.safetensors"),
      writeSafetensors({ a: float32Tensor(eighths, [2, 3]), b: float32Tensor(eighths, [3, 2]) }),
    );
    expect(() => readPromptEmbeddings(path("int.npy"))).toThrowError(/got I32 \[2, 3\]/);
    expect(() => readPromptEmbeddings(path("nan.npy"))).toThrowError(/finite numbers, got NaN in row 1/);
    expect(() => readPromptEmbeddings(path("two.safetensors"))).toThrowError(/prompt_embeds, got tensors/);
    expect(() => readPromptEmbeddings(path("a.bin"))).toThrowError(/ends in \.npy/);
    expect(() => readPromptEmbeddings(path("absent.pt"))).toThrowError(code("ERR_FILE_UNREADABLE"));
    await expect(writePromptEmbeddings(path("a.txt"), compressed)).rejects.toThrowError(/ends in \.npy/);
  });
});

describe("the wire", () => {
  test.each([
    ["float32", "to-torch.pt"],
    ["float16", "to-torch-f16.pt"],
    ["bfloat16", "to-torch-bf16.pt"],
  ] as const)("%s: the bytes that Python read", (dtype, file) => {
    const base64 = encodePromptEmbeds(prompt, dtype);
    expect(new Uint8Array(Buffer.from(base64, "base64"))).toEqual(golden(file));
    expect(Buffer.from(base64, "base64").toString("base64")).toBe(base64);
    const limits = { maxBytes: 1000, hiddenSize: 3 };
    expect(decodePromptEmbeds(base64, limits)).toEqual(prompt);
  });

  test("base64 that is none, too much of it, another width: refused before anything is loaded", () => {
    const base64 = encodePromptEmbeds(prompt);
    const limits = { maxBytes: 1000, hiddenSize: 3 };
    for (const text of [`${base64} `, `${base64}\n`, base64.slice(1), `=${base64.slice(1)}`, "", "!!!!"])
      expect(() => decodePromptEmbeds(text, limits)).toThrowError(code("ERR_PROMPT_EMBEDS_FILE"));
    expect(() => decodePromptEmbeds(base64, { ...limits, maxBytes: 500 })).toThrowError(/at most 500 bytes/);
    expect(() => decodePromptEmbeds(base64, { ...limits, hiddenSize: 4 })).toThrowError(
      /rows of 4.*rows of 3/,
    );
  });
});

/** A torch.save file around a pickle; storage 0 holds six floats. */
function archive(pickle: string, records: { name: string; bytes: Uint8Array }[] = []): Uint8Array {
  return writeStoredZip([
    { name: "archive/data.pkl", bytes: Buffer.from(pickle, "latin1") },
    { name: "archive/data/0", bytes: new Uint8Array(eighths.buffer) },
    ...records,
  ]);
}
const text = (value: string) => `X${String.fromCharCode(value.length)}\0\0\0${value}`;
const integer = (value: number) => {
  const bytes = Buffer.alloc(5, "J");
  bytes.writeInt32LE(value, 1);
  return bytes.toString("latin1");
};
const storage = (type = "FloatStorage", key = "0", count = 6) =>
  `(${text("storage")}ctorch\n${type}\n${text(key)}${text("cpu")}${integer(count)}tQ`;
const tuple = (values: number[]) => `(${values.map(integer).join("")}t`;
const tensor = (shape: number[], strides: number[], from = 0, held = storage()) =>
  `\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(${held}${integer(from)}${tuple(shape)}${tuple(strides)}\x89ccollections\nOrderedDict\n)RtR.`;

describe("hostile torch.save files", () => {
  test("the assembler of this test makes files that are read", () => {
    expect(parseTorchEmbeddings(archive(tensor([2, 3], [3, 1])))).toEqual(prompt);
    expect([...toFloat32(readTorchSave(archive(tensor([3, 2], [1, 3]))) as never)]).toEqual([
      0, 0.375, 0.125, 0.5, 0.25, 0.625,
    ]);
  });

  test.each<[string, Uint8Array]>([
    ["a call of os.system", archive(`\x80\x02cposix\nsystem\n(${text("true")}tR.`)],
    ["a call of eval", archive(`\x80\x02cbuiltins\neval\n(${text("1")}tR.`)],
    ["a call by STACK_GLOBAL", archive(`\x80\x04${text("os")}${text("system")}\x93(${text("true")}tR.`)],
    ["INST", archive(`\x80\x02(${text("true")}ios\nsystem\n.`)],
    ["OBJ", archive(`\x80\x02(cos\nsystem\n${text("true")}o.`)],
    ["NEWOBJ", archive(`\x80\x02cos\nsystem\n(${text("true")}t\x81.`)],
    ["an extension code", archive("\x80\x02\x82\x01.")],
    ["BUILD on a tensor", archive(tensor([2, 3], [3, 1]).replace(/\.$/, "}b."))],
    ["a persistent id that is no storage", archive(`\x80\x02${text("../../etc/passwd")}Q.`)],
    ["a sparse tensor", archive(`\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n(tR.`)],
    ["a quantised tensor", archive(`\x80\x02ctorch._utils\n_rebuild_qtensor\n(tR.`)],
    ["a tensor subclass", archive(`\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(tR.`)],
    ["a complex storage", archive(tensor([2, 3], [3, 1], 0, storage("ComplexFloatStorage")))],
    [
      "a storage key that is a path",
      archive(tensor([2, 3], [3, 1], 0, storage("FloatStorage", "../data/0"))),
    ],
    ["a record that is not there", archive(tensor([2, 3], [3, 1], 0, storage("FloatStorage", "9")))],
    ["a storage of another size", archive(tensor([2, 3], [3, 1], 0, storage("FloatStorage", "0", 7)))],
    ["one storage under two dtypes", archive(tensor([2, 3], [3, 1], 0, storage("DoubleStorage", "0", 6)))],
    ["an offset past the end", archive(tensor([2, 3], [3, 1], 1))],
    ["a negative offset", archive(tensor([2, 3], [3, 1], -1))],
    ["a negative stride", archive(tensor([2, 3], [-3, 1], 3))],
    ["a negative size", archive(tensor([-2, -3], [3, 1]))],
    ["strides beyond the storage", archive(tensor([2, 3], [4, 1]))],
    ["a billion rows of stride 0", archive(tensor([1 << 30, 3], [0, 1]))],
    ["sizes that overflow", archive(tensor([2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1], [0, 0, 0]))],
    ["more strides than sizes", archive(tensor([6], [1, 1]))],
    ["a dictionary", writeTorchSave({ x: float32Tensor(eighths, [2, 3]) })],
    ["a list that holds itself", archive("\x80\x02]q\x00h\x00a.")],
    ["a tensor of integers", writeTorchSave(makeTensor("I64", [2, 3], new Uint8Array(48)))],
    ["a tensor of doubles", writeTorchSave(makeTensor("F64", [2, 3], new Uint8Array(48)))],
    ["a scalar", writeTorchSave(float32Tensor(Float32Array.of(1), []))],
    ["a number", writeTorchSave(3)],
    ["nothing after the protocol", archive("\x80\x02")],
    ["two values at the end", archive("\x80\x02NN.")],
    ["protocol 9", archive("\x80\x09N.")],
    [
      "big-endian data",
      archive(tensor([2, 3], [3, 1]), [{ name: "archive/byteorder", bytes: Buffer.from("big") }]),
    ],
    [
      "a TorchScript archive",
      archive("\x80\x02N.", [{ name: "archive/constants.pkl", bytes: Buffer.from(".") }]),
    ],
    ["two pickles", archive("\x80\x02N.", [{ name: "other/data.pkl", bytes: Buffer.from("N.") }])],
    ["the format before torch 1.6", Uint8Array.of(0x80, 2, 0x8a, 10, 0x6c)],
    ["a pickle alone", Buffer.from("\x80\x02N.", "latin1")],
    ["nothing", new Uint8Array(0)],
  ])("%s", (_name, bytes) => {
    const refused = code("ERR_TORCH_SAVE", "ERR_PROMPT_EMBEDS_FILE", "ERR_ZIP", "ERR_TENSOR_SHAPE");
    expect(() => parseTorchEmbeddings(bytes)).toThrowError(refused);
  });

  test("an entry that inflates beyond what it declares is cut off", () => {
    const zeros = new Uint8Array(64 << 20);
    const pickle = Buffer.from(tensor([2, 3], [3, 1]), "latin1");
    const bomb = deflatedZip([
      { name: "archive/data.pkl", bytes: pickle, declared: pickle.length },
      { name: "archive/data/0", bytes: zeros, declared: 24 },
    ]);
    expect(() => parseTorchEmbeddings(bomb)).toThrowError(code("ERR_ZIP"));
  });

  test("one that declares it is refused before it is inflated", () => {
    const pickle = Buffer.from(
      tensor([1 << 12, 1 << 12], [1 << 12, 1], 0, storage("FloatStorage", "0", 1 << 24)),
      "latin1",
    );
    const bomb = deflatedZip([
      { name: "archive/data.pkl", bytes: pickle, declared: pickle.length },
      { name: "archive/data/0", bytes: new Uint8Array(64 << 20), declared: 64 << 20 },
    ]);
    expect(bomb.length).toBeLessThan(1 << 20);
    expect(() => parseTorchEmbeddings(bomb)).toThrowError(/at most \d+ bytes, as stored, got 67/);
    const limits = { maxBytes: 1 << 20, hiddenSize: 1 << 12 };
    expect(() => decodePromptEmbeds(bomb.toString("base64"), limits)).toThrowError(
      code("ERR_PROMPT_EMBEDS_FILE"),
    );
  });

  test("every prefix of a file is refused", () => {
    const whole = golden("to-torch.pt");
    for (let length = 0; length < whole.length; length++)
      expect(() => parseTorchEmbeddings(whole.subarray(0, length))).toThrowError(
        code("ERR_ZIP", "ERR_TORCH_SAVE"),
      );
  });

  test("5,000 mutations give the tensor or a typed error, never another", () => {
    const original = golden("from-torch.pt");
    let state = 11;
    const next = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    let refused = 0;
    for (let round = 0; round < 5000; round++) {
      const bytes = original.slice();
      for (let i = 0; i < 1 + next() * 3; i++)
        bytes[Math.floor(next() * bytes.length)] = Math.floor(next() * 256);
      try {
        const { promptEmbeddings, shape } = parseTorchEmbeddings(bytes);
        expect(promptEmbeddings.length).toBe(shape[0] * shape[1]);
      } catch (error) {
        refused++;
        if (!/^ERR_/.test((error as { code?: string }).code ?? "")) throw error;
      }
    }
    expect(refused).toBeGreaterThan(500);
  });
});

/** A zip of deflated entries whose sizes are whatever `declared` says. */
function deflatedZip(entries: { name: string; bytes: Uint8Array; declared: number }[]): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, bytes, declared } of entries) {
    const data = deflateRawSync(bytes);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(8, 8);
    local.writeUInt32LE(crc32(bytes), 14);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(declared, 22);
    local.writeUInt16LE(name.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    local.copy(central, 6, 4, 30);
    central.writeUInt32LE(at, 42);
    parts.push(local, Buffer.from(name), data);
    directory.push(central, Buffer.from(name));
    at += 30 + name.length + data.length;
  }
  const table = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(table.length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...parts, table, end]);
}
