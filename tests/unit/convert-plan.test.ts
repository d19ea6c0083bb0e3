// SPDX-License-Identifier: Apache-2.0
// Plans of archives: refusals that name everything at once, spellings of config.json, rope tables.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeGguf } from "../../src/formats/gguf-writer.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { type FormatTensor, float32Tensor } from "../../src/formats/tensor.ts";
import { planFrom, planFromGguf, planFromHuggingFace } from "../../src/model/convert.ts";
import { ConfigReader } from "../../src/model/families/config-reader.ts";
import { MODEL_TYPES } from "../../src/model/families/index.ts";
import { ropeOf } from "../../src/model/families/rope.ts";
import { readFamilySource } from "../../src/model/families/source.ts";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "chatspace-plan-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const CONFIG = {
  model_type: "llama",
  hidden_size: 4,
  intermediate_size: 8,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  num_hidden_layers: 1,
  vocab_size: 5,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 16,
};

const zeros = (...shape: number[]) =>
  float32Tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);

function weights(): Record<string, FormatTensor> {
  const layer = "model.layers.0";
  return {
    "model.embed_tokens.weight": zeros(5, 4),
    "lm_head.weight": zeros(5, 4),
    "model.norm.weight": zeros(4),
    [`${layer}.input_layernorm.weight`]: zeros(4),
    [`${layer}.post_attention_layernorm.weight`]: zeros(4),
    [`${layer}.self_attn.q_proj.weight`]: zeros(4, 4),
    [`${layer}.self_attn.k_proj.weight`]: zeros(2, 4),
    [`${layer}.self_attn.v_proj.weight`]: zeros(2, 4),
    [`${layer}.self_attn.o_proj.weight`]: zeros(4, 4),
    [`${layer}.mlp.gate_proj.weight`]: zeros(8, 4),
    [`${layer}.mlp.up_proj.weight`]: zeros(8, 4),
    [`${layer}.mlp.down_proj.weight`]: zeros(4, 8),
  };
}

function folder(config: object | string, tensors: Record<string, FormatTensor> = weights()): string {
  const path = mkdtempSync(join(root, "model-"));
  writeFileSync(join(path, "config.json"), typeof config === "string" ? config : JSON.stringify(config));
  writeFileSync(join(path, "model.safetensors"), writeSafetensors(tensors));
  return path;
}

const code = (expected: string) => expect.objectContaining({ code: expected });

describe("refusals", () => {
  test("an unknown architecture names those that are known and the exporter", () => {
    const plan = () => planFromHuggingFace(folder({ ...CONFIG, model_type: "mamba" }));
    expect(plan).toThrowError(code("ERR_FAMILY_UNKNOWN"));
    for (const known of [...MODEL_TYPES, "export_torchscript.py"])
      expect(plan).toThrowError(new RegExp(known));
  });

  test("missing weights are named all at once", () => {
    const { "model.norm.weight": _, "lm_head.weight": __, ...rest } = weights();
    const plan = () => planFromHuggingFace(folder(CONFIG, rest));
    expect(plan).toThrowError(code("ERR_WEIGHTS_MISSING"));
    expect(plan).toThrowError(/2 weight\(s\).*model\.norm\.weight, lm_head\.weight/);
  });

  test("wrong shapes are named with what was expected", () => {
    const plan = () => planFromHuggingFace(folder({ ...CONFIG, vocab_size: 6 }));
    expect(plan).toThrowError(code("ERR_WEIGHTS_SHAPE"));
    expect(plan).toThrowError(/embed_tokens\.weight: expected \[6, 4\], got \[5, 4\]/);
  });

  test("weights of a type nobody decodes are named all at once, with the types that are", () => {
    const ints = (rows: number, columns: number): FormatTensor => ({
      dtype: "I8",
      shape: [rows, columns],
      data: new Uint8Array(rows * columns),
    });
    const layer = "model.layers.0.self_attn";
    const plan = () =>
      planFromHuggingFace(
        folder(CONFIG, {
          ...weights(),
          [`${layer}.q_proj.weight`]: ints(4, 4),
          [`${layer}.o_proj.weight`]: ints(4, 4),
        }),
      );
    expect(plan).toThrowError(code("ERR_WEIGHT_TYPE"));
    expect(plan).toThrowError(/Q4_K.*q_proj\.weight I8, .*o_proj\.weight I8/);
  });

  test("a checkpoint quantised by another tool is refused by the tool's name", () => {
    const plan = () =>
      planFromHuggingFace(folder({ ...CONFIG, quantization_config: { quant_method: "gptq", bits: 4 } }));
    expect(plan).toThrowError(code("ERR_CHECKPOINT_QUANTIZED"));
    expect(plan).toThrowError(/float weights, got quantization_config \(gptq\)/);
  });

  test.each<[string, object | string, string]>([
    ["no JSON", "{", "ERR_CHECKPOINT"],
    ["a list", "[]", "ERR_CHECKPOINT"],
    ["no hidden size", { ...CONFIG, hidden_size: undefined, n_embd: undefined }, "ERR_CONFIG"],
    ["a text for a number", { ...CONFIG, num_hidden_layers: "many" }, "ERR_CONFIG"],
    ["more layers than weights could be of", { ...CONFIG, num_hidden_layers: 2 ** 31 }, "ERR_CONFIG"],
    ["a head wider than any", { ...CONFIG, head_dim: 2 ** 31 }, "ERR_CONFIG"],
    ["heads that do not divide", { ...CONFIG, num_attention_heads: 3, num_key_value_heads: 2 }, "ERR_CONFIG"],
    ["an unknown activation", { ...CONFIG, hidden_act: "toString" }, "ERR_CONFIG"],
    ["an unknown rope", { ...CONFIG, rope_scaling: { rope_type: "spiral", factor: 2 } }, "ERR_ROPE_UNKNOWN"],
  ])("config.json: %s", (_, config, expected) => {
    expect(() => planFromHuggingFace(folder(config))).toThrowError(code(expected));
  });

  test("a folder without weights, absent shards and other paths", () => {
    const empty = mkdtempSync(join(root, "empty-"));
    writeFileSync(join(empty, "config.json"), JSON.stringify(CONFIG));
    expect(() => planFrom(empty)).toThrowError(code("ERR_CHECKPOINT"));
    const index = { weight_map: { a: "model-00001-of-00002.safetensors", b: "../outside.safetensors" } };
    writeFileSync(join(empty, "model.safetensors.index.json"), JSON.stringify(index));
    expect(() => planFrom(empty)).toThrowError(/model-00001-of-00002\.safetensors/);
    expect(() => planFrom(empty)).toThrowError(/outside/);
    expect(() => planFrom(join(root, "nothing"))).toThrowError(code("ERR_CHECKPOINT"));
  });

  test("a GGUF of another architecture, and one without a tokenizer", () => {
    const file = join(root, "other.gguf");
    writeFileSync(file, writeGguf({ "general.architecture": { type: "string", value: "rwkv" } }, new Map()));
    expect(() => planFromGguf(file)).toThrowError(code("ERR_GGUF_ARCHITECTURE"));
    writeFileSync(file, "GGUF");
    expect(() => planFrom(file)).toThrowError(code("ERR_GGUF"));
  });
});

describe("plans", () => {
  test("a bare model's names and a tied head are understood", () => {
    const { "lm_head.weight": _, ...rest } = weights();
    const bare = Object.fromEntries(
      Object.entries(rest).map(([name, value]) => [name.replace("model.", ""), value]),
    );
    const { plan } = planFromHuggingFace(folder({ ...CONFIG, tie_word_embeddings: true }, bare));
    const source = (path: string, name: string) =>
      plan.modules.find((module) => module.path === path)!.weights.find((weight) => weight.name === name)!
        .source;
    expect(source("", "head")).toEqual(source("embed", "weight"));
  });

  test("children come before their parents, layers are unrolled, one line a layer in the cache's spec", () => {
    const { plan, metadata } = planFromHuggingFace(folder(CONFIG));
    const paths = plan.modules.map((module) => module.path);
    expect(paths).toEqual(["embed", "layers.0.attn", "layers.0.mlp", "layers.0", "layers", "norm", ""]);
    expect(plan.cache.split("\n").map((line) => line.split(" ")[0])).toEqual([
      "chatspace-cache",
      "rope",
      "layer",
      "",
    ]);
    expect(metadata).toMatchObject({ architecture: "llama", layers: 1, headDim: 2, contextLength: 16 });
    const root = readFamilySource("llama", { layers: 3, experts: 0 }).find(
      ({ kind }) => kind === "Decoder",
    )!.text;
    expect(root.match(/getattr\(self\.layers, "\d"\)/g)).toHaveLength(3);
    expect(root).not.toContain("{i}");
  });
});

describe("rope", () => {
  const shape = { headDim: 8, maxPositions: 128 };
  const table = (config: Record<string, unknown>) => ropeOf(new ConfigReader("config.json", config), shape);

  test("both spellings mean the same", () => {
    const scaling = {
      factor: 8,
      high_freq_factor: 4,
      low_freq_factor: 1,
      original_max_position_embeddings: 32,
    };
    const old = table({ rope_theta: 5e5, rope_scaling: { type: "llama3", ...scaling } });
    const now = table({ rope_parameters: { rope_theta: 5e5, rope_type: "llama3", ...scaling } });
    expect(old).toEqual(now);
    expect([...now.inverseFrequencies]).not.toEqual([...table({ rope_theta: 5e5 }).inverseFrequencies]);
  });

  test("linear scaling divides, dynamic holds the model to its trained length", () => {
    const plain = table({}).inverseFrequencies;
    expect([...table({ rope_scaling: { type: "linear", factor: 4 } }).inverseFrequencies]).toEqual(
      [...plain].map((value) => Math.fround(value / 4)),
    );
    expect(table({ rope_scaling: { type: "dynamic", factor: 4 } }).maxPositions).toBe(128);
  });

  test("longrope takes its short table and the trained length", () => {
    const rope = table({
      original_max_position_embeddings: 64,
      rope_scaling: { type: "longrope", short_factor: [1, 2, 3, 4], long_factor: [9, 9, 9, 9] },
    });
    expect(rope.maxPositions).toBe(64);
    expect(rope.attentionFactor).toBeCloseTo(Math.sqrt(1 + Math.log(2) / Math.log(64)), 12);
    const plain = table({}).inverseFrequencies;
    expect(rope.inverseFrequencies[2]).toBeCloseTo(plain[2]! / 3, 8);
  });

  test("yarn takes mscale over its own factor", () => {
    const yarn = { rope_type: "yarn", rope_theta: 1e4, factor: 4, original_max_position_embeddings: 32 };
    expect(table({ rope_parameters: yarn }).attentionFactor).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
    const both = { ...yarn, mscale: 0.8, mscale_all_dim: 0.8 };
    expect(table({ rope_parameters: both }).attentionFactor).toBe(1);
    expect(table({ rope_parameters: { ...yarn, attention_factor: 1.25 } }).attentionFactor).toBe(1.25);
  });
});
