// SPDX-License-Identifier: Apache-2.0
// `--dtype` and `--quantize` at conversion: the archive holds the very bits that the same wish gives at
// load, says so, and loads as it is stored.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { fromFloat32, toFloat32 } from "../../src/formats/tensor.ts";
import { cacheFolder } from "../../src/model/cache-folder.ts";
import { convert } from "../../src/model/convert.ts";
import type { NativeDtype, NativeModel } from "../../src/native/contract.ts";
import { load, run } from "./converted-model.ts";
import { shared } from "./golden.ts";

const STORIES = shared("models/llama-stories260K/hf");
const DECODERS = shared("golden/decoders");
const SMOLLM2 = join(cacheFolder(), "sources/SmolLM2-135M-Instruct.Q4_1.gguf");
const folder = mkdtempSync(join(tmpdir(), "chatspace-stored-form-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** stories260K with every tensor rounded. */
function rounded(dtype: "BF16" | "F16"): string {
  const path = mkdtempSync(join(folder, `${dtype}-`));
  const tensors = [...readSafetensors(join(STORIES, "model.safetensors")).tensors].map(
    ([name, tensor]) => [name, fromFloat32(toFloat32(tensor), dtype, tensor.shape)] as const,
  );
  writeFileSync(join(path, "model.safetensors"), writeSafetensors(new Map(tensors)));
  writeFileSync(join(path, "config.json"), readFileSync(join(STORIES, "config.json")));
  return path;
}

interface Wish {
  dtype?: NativeDtype | "auto";
  quantize?: "none" | "int8" | "int4";
}

/** Bits of logits and of one hidden state, and what the model says of itself. */
async function bitsOf(model: NativeModel) {
  try {
    const tokens = Int32Array.from(
      { length: 24 },
      (_, i) => (i * 37 + 1) % Math.min(199, model.info.vocabSize),
    );
    const { logits, captures } = await run(model, tokens, ["layers.1"]);
    const { dtype, weightBytes } = model.info;
    const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    return { logits: bytes(logits), hidden: bytes(captures[0]!.data), dtype, weightBytes };
  } finally {
    await model.dispose();
  }
}

async function compareWithLoad(source: string, wish: Wish) {
  const { dtype = "auto", quantize = "none" } = wish;
  const plain = join(folder, "plain.pt");
  const made = join(folder, "made.pt");
  await convert(source, plain);
  const metadata = await convert(source, made, wish);
  const atLoad = await bitsOf(await load(plain, { dtype, quantize }));
  const asStored = await bitsOf(await load(made, { quantize: "stored" }));
  expect(Buffer.compare(asStored.logits, atLoad.logits)).toBe(0);
  expect(Buffer.compare(asStored.hidden, atLoad.hidden)).toBe(0);
  expect(asStored.dtype).toBe(atLoad.dtype);
  expect(asStored.weightBytes).toBe(atLoad.weightBytes);
  expect(metadata.stored).toEqual({ dtype, quantize });
  const sizes = [statSync(plain).size, statSync(made).size];
  rmSync(plain);
  rmSync(made);
  return { metadata, sizes };
}

describe.skipIf(!existsSync(STORIES))("a form that is asked for at conversion", () => {
  test.each<[string, () => string, Wish]>([
    ["int8 of float32", () => STORIES, { quantize: "int8" }],
    ["int4 of float32", () => STORIES, { quantize: "int4" }],
    ["bfloat16 of float32", () => STORIES, { dtype: "bfloat16" }],
    ["float16 of float32", () => STORIES, { dtype: "float16" }],
    ["int8 of bfloat16 keeps the cache in bfloat16", () => rounded("BF16"), { quantize: "int8" }],
    ["int4 of float16", () => rounded("F16"), { quantize: "int4" }],
    ["float32 of float16", () => rounded("F16"), { dtype: "float32" }],
    ["int8 beside bfloat16", () => STORIES, { dtype: "bfloat16", quantize: "int8" }],
    ["int4 of turned matrices (GPT-2)", () => join(DECODERS, "gpt2"), { quantize: "int4" }],
    ["bfloat16 of turned matrices", () => join(DECODERS, "gpt2"), { dtype: "bfloat16" }],
    ["float16 of parts of fused matrices (Phi-3)", () => join(DECODERS, "phi3"), { dtype: "float16" }],
    ["int8 of experts", () => join(DECODERS, "qwen3-moe"), { quantize: "int8" }],
    ["norms that add one (Gemma 2)", () => join(DECODERS, "gemma2"), { dtype: "bfloat16" }],
  ])("%s: the bits of loading so", async (_, source, wish) => {
    await compareWithLoad(source(), wish);
  });

  test("the archive shrinks, names its types, and keeps no scratch file", async () => {
    const { metadata, sizes } = await compareWithLoad(STORIES, { quantize: "int4" });
    expect(metadata.weights.head!.type).toBe("Q8_0");
    expect(metadata.weights["embed.weight"]!.type).toBe("Q8_0");
    expect(metadata.weights["layers.0.attn.q"]!.type).toBe("Q4_1");
    // Rows of 172 values are no whole blocks of 32.
    expect(metadata.weights["layers.0.mlp.down"]!.type).toBe("F32");
    expect(metadata.weights["layers.0.attn_norm"]?.type ?? "F32").toBe("F32");
    expect(sizes[1]!).toBeLessThan(0.6 * sizes[0]!);
    expect(readdirSync(folder).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("progress covers the quantising and the writing, and only ever grows", async () => {
    const seen: [number, number][] = [];
    await convert(STORIES, join(folder, "progress.pt"), {
      quantize: "int8",
      onProgress: (done, total) => seen.push([done, total]),
    });
    const [last] = seen.slice(-1);
    expect(last![0]).toBe(last![1]);
    const source = statSync(join(STORIES, "model.safetensors")).size;
    expect(last![1]).toBeGreaterThan(source);
    for (let i = 1; i < seen.length; i++) expect(seen[i]![0]).toBeGreaterThanOrEqual(seen[i - 1]![0]);
  });

  test("other words are refused by name", async () => {
    const output = join(folder, "never.pt");
    const bad = (options: object) => convert(STORIES, output, options as Wish);
    await expect(bad({ quantize: "int2" })).rejects.toThrow(/quantize: expected .*int4.*got.*int2/s);
    await expect(bad({ quantize: "stored" })).rejects.toThrow(TypeError);
    await expect(bad({ dtype: "float64" })).rejects.toThrow(/dtype/);
    expect(existsSync(output)).toBe(false);
  });
});

describe.skipIf(!existsSync(SMOLLM2))("the default model's GGUF (skipped where it was not pulled)", () => {
  test.each<[string, Wish]>([["int8 of Q4_1 in llama.cpp's row order", { quantize: "int8" }]])(
    "%s: the bits of loading so",
    { timeout: 180_000 },
    async (_, wish) => {
      const { sizes } = await compareWithLoad(SMOLLM2, wish);
      console.log(
        `smollm2 ${JSON.stringify(wish)}: ${sizes.map((bytes) => (bytes / 1e6).toFixed(1)).join(" -> ")} MB`,
      );
    },
  );
});
