// SPDX-License-Identifier: Apache-2.0
// A compressed-prompt checkpoint on disk: llm/, embedder/, projectors/ and chatspace.json beside them.

import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { DataError } from "../errors.ts";
import { readJson } from "../model/checkpoint.ts";
import { type CompressionSettings, compressionSettings, SETTINGS_FILE } from "./settings.ts";

export interface MemoryCheckpoint {
  /** The folder that holds llm/, embedder/ and projectors/. */
  readonly folder: string;
  /** Folder of the language model: Hugging Face files, or model.pt with a tokenizer. */
  readonly llm: string;
  readonly embedder: string;
  readonly projectors: string;
  readonly settings: CompressionSettings;
  /** Whether chatspace.json records the settings. */
  readonly recorded: boolean;
}

const PARTS = ["llm", "embedder", "projectors"] as const;

/**
 * Finds the parts of a checkpoint: in the folder itself, or in its newest checkpoint_N.
 * @throws DataError ERR_MEMORY_CHECKPOINT, ERR_MEMORY_CHUNK_SIZE; ModelError ERR_CHECKPOINT (no JSON).
 */
export function openMemoryCheckpoint(path: string, options: { chunkSize?: number } = {}): MemoryCheckpoint {
  const folder = [path, ...numbered(path)].find((candidate) => absent(candidate).length === 0);
  if (folder === undefined)
    throw bad(path, `the folders ${PARTS.join(", ")}`, `no ${absent(path).join(", ")}`);
  const [llm, embedder, projectors] = PARTS.map((part) => join(folder, part)) as [string, string, string];
  for (const part of [llm, embedder])
    if (existsSync(join(part, "adapter_config.json")))
      throw bad(part, "whole weights", "adapters (adapter_config.json)", [
        "Merge them into the base model first: peft's merge_and_unload(), then save_pretrained().",
      ]);
  const file = join(folder, SETTINGS_FILE);
  const recorded = existsSync(file) ? (readJson(file).compressedPrompt ?? null) : null;
  const settings = compressionSettings(file, recorded, options.chunkSize);
  return { folder, llm, embedder, projectors, settings, recorded: recorded !== null };
}

/** What SteerModel.load takes for a part: its model.pt if it has one, else the folder. */
export function modelPath(part: string): string {
  const archive = join(part, "model.pt");
  return existsSync(archive) ? archive : part;
}

function absent(folder: string): string[] {
  return PARTS.filter((part) => !statSync(join(folder, part), { throwIfNoEntry: false })?.isDirectory());
}

function numbered(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [];
  return readdirSync(path)
    .map((name) => ({ name, step: Number(/^checkpoint_(\d+)$/.exec(name)?.[1] ?? Number.NaN) }))
    .filter(({ step }) => !Number.isNaN(step))
    .sort((a, b) => b.step - a.step)
    .map(({ name }) => join(path, name));
}

function bad(path: string, expected: string, got: string, remedies: readonly string[] = []): DataError {
  return new DataError("ERR_MEMORY_CHECKPOINT", `${path}: expected ${expected}, got ${got}`, {
    details: { path, expected, got },
    remedies: [...remedies, "docs/compressed-prompts.md describes the layout of a checkpoint."],
  });
}
