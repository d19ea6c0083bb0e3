// SPDX-License-Identifier: Apache-2.0
// A checkpoint as it lies on disk, whatever its files: config and a table of weights by Hugging Face
// name. Only headers are read here; the addon maps the data.

import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { ModelError } from "../errors.ts";
import { readSafetensorsHeader } from "../formats/safetensors.ts";
import { readTorchSaveEntries } from "../formats/torch-save.ts";
import type { CheckpointWeight, CheckpointWeights } from "./families/builder.ts";
import { ConfigReader } from "./families/config-reader.ts";

export interface Checkpoint {
  readonly format: "safetensors" | "torch" | "gguf";
  readonly config: ConfigReader;
  readonly weights: CheckpointWeights;
  /** Paths of the files that hold weights. */
  readonly files: readonly string[];
}

/**
 * Reads a Hugging Face folder: config.json and single or sharded safetensors, or pytorch_model.bin where
 * there are none. Throws ERR_CHECKPOINT, ERR_CHECKPOINT_QUANTIZED, ERR_CONFIG, ERR_SAFETENSORS, ERR_TORCH_SAVE.
 */
export function openHuggingFace(folder: string): Checkpoint {
  const configPath = join(folder, "config.json");
  const whole = new ConfigReader(configPath, readJson(configPath));
  refuseQuantized(whole);
  const config = textConfig(whole);
  const { format, files } = weightFiles(folder);
  const weights = new Map<string, CheckpointWeight>();
  for (const file of files) {
    const entries = format === "torch" ? readTorchSaveEntries(file) : readSafetensorsHeader(file).tensors;
    for (const [name, { offset, bytes, dtype, shape }] of entries) {
      if (weights.has(name)) throw bad(folder, "each weight in one shard", `${name} in two`);
      weights.set(name, { file, offset, bytes, type: dtype, shape });
    }
  }
  return { format, config, weights, files };
}

// GPTQ, AWQ, bitsandbytes and the like pack their matrices in ways of their own.
function refuseQuantized(config: ConfigReader): void {
  const quantization = config.object("quantization_config");
  if (!quantization) return;
  const method = String(quantization.raw("quant_method") ?? "not named");
  throw new ModelError(
    "ERR_CHECKPOINT_QUANTIZED",
    `${config.file}: expected float weights, got quantization_config (${method})`,
    {
      details: { file: config.file, method },
      remedies: [
        "Take the repository with the float weights; `convert --quantize int8|int4` makes them small.",
        "Or take a GGUF file of the model, whose 4- and 8-bit blocks are run as they are.",
      ],
    },
  );
}

// Models that also see images keep the decoder's config one level down.
function textConfig(config: ConfigReader): ConfigReader {
  return config.has("hidden_size") || config.has("n_embd")
    ? config
    : (config.object("text_config") ?? config);
}

function weightFiles(folder: string): { format: "safetensors" | "torch"; files: string[] } {
  for (const [format, name] of [
    ["safetensors", "model.safetensors"],
    ["torch", "pytorch_model.bin"],
  ] as const) {
    if (existsSync(join(folder, name))) return { format, files: [join(folder, name)] };
    const index = join(folder, `${name}.index.json`);
    if (existsSync(index)) return { format, files: shardsOf(folder, index) };
  }
  throw bad(folder, "model.safetensors, its index of shards, or pytorch_model.bin", "none of them");
}

function shardsOf(folder: string, index: string): string[] {
  const map = readJson(index).weight_map;
  if (typeof map !== "object" || map === null) throw bad(index, "a weight_map", "none");
  const names = [...new Set(Object.values(map).map(String))].sort();
  const absent = names.filter((name) => basename(name) !== name || !existsSync(join(folder, name)));
  if (absent.length > 0)
    throw bad(folder, "all shards of the index", `these are absent: ${absent.join(", ")}`);
  return names.map((name) => join(folder, name));
}

/** A JSON object from a file. Throws ERR_CHECKPOINT. */
export function readJson(path: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw bad(path, "readable JSON", cause instanceof Error ? cause.message : String(cause), cause);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw bad(path, "a JSON object", Array.isArray(value) ? "a list" : String(value));
}

function bad(where: string, expected: string, got: string, cause?: unknown): ModelError {
  return new ModelError("ERR_CHECKPOINT", `${where}: expected ${expected}, got ${got}`, {
    details: { path: where, expected, got },
    remedies: [
      "Give a Hugging Face folder (config.json, safetensors, tokenizer.json), a .gguf file or a .pt archive.",
    ],
    cause,
  });
}
