// SPDX-License-Identifier: Apache-2.0
// A checkpoint as it lies on disk, whatever its files: config and a table of weights by Hugging Face
// name. Only headers are read here; the addon maps the data.

import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { ModelError } from "../errors.ts";
import { readSafetensorsHeader } from "../formats/safetensors.ts";
import type { CheckpointWeight, CheckpointWeights } from "./families/builder.ts";
import { ConfigReader } from "./families/config-reader.ts";

export interface Checkpoint {
  readonly format: "safetensors" | "gguf";
  readonly config: ConfigReader;
  readonly weights: CheckpointWeights;
  /** Paths of the files that hold weights. */
  readonly files: readonly string[];
}

/** Reads a Hugging Face folder: config.json and single or sharded safetensors. Throws ERR_CHECKPOINT, ERR_CONFIG, ERR_SAFETENSORS. */
export function openHuggingFace(folder: string): Checkpoint {
  const configPath = join(folder, "config.json");
  const config = textConfig(new ConfigReader(configPath, readJson(configPath)));
  const files = safetensorsOf(folder);
  const weights = new Map<string, CheckpointWeight>();
  for (const file of files) {
    for (const [name, { offset, bytes, dtype, shape }] of readSafetensorsHeader(file).tensors) {
      if (weights.has(name)) throw bad(folder, "each weight in one shard", `${name} in two`);
      weights.set(name, { file, offset, bytes, type: dtype, shape });
    }
  }
  return { format: "safetensors", config, weights, files };
}

// Models that also see images keep the decoder's config one level down.
function textConfig(config: ConfigReader): ConfigReader {
  return config.has("hidden_size") || config.has("n_embd")
    ? config
    : (config.object("text_config") ?? config);
}

function safetensorsOf(folder: string): string[] {
  const single = join(folder, "model.safetensors");
  if (existsSync(single)) return [single];
  const indexPath = join(folder, "model.safetensors.index.json");
  if (!existsSync(indexPath))
    throw bad(folder, "model.safetensors or model.safetensors.index.json", "neither");
  const map = new ConfigReader(indexPath, readJson(indexPath)).object("weight_map");
  if (!map) throw bad(folder, "a weight_map in model.safetensors.index.json", "none");
  const names = new Set(Object.values(readJson(indexPath).weight_map as Record<string, unknown>).map(String));
  const absent = [...names].filter((name) => basename(name) !== name || !existsSync(join(folder, name)));
  if (absent.length > 0)
    throw bad(folder, "all shards of the index", `these are absent: ${absent.join(", ")}`);
  return [...names].sort().map((name) => join(folder, name));
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
