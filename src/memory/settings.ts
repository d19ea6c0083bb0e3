// SPDX-License-Identifier: Apache-2.0
// How a checkpoint was trained to compress: chunk size, window, pooling, projector shape. A wrong one
// degrades the output without a word, so it stands in the checkpoint (chatspace.json) and nowhere else.

import { DataError, describe } from "../errors.ts";
import { nearest, suggestion } from "../steering/nearest.ts";

/**
 * "marker": a marker token goes behind each chunk, its hidden state is the chunk's embedding (Code-LLaVA).
 * "last", "mean": of the chunk's own tokens (LCLM).
 */
export type ChunkPooling = "marker" | "last" | "mean";

export interface CompressionSettings {
  /** Embedder tokens that become one row. */
  readonly chunkSize: number;
  /** Embedder tokens seen at once, a multiple of chunkSize; chunkSize = each chunk alone. */
  readonly window: number;
  readonly pooling: ChunkPooling;
  /** Token behind each chunk for "marker"; null = the pad token of the embedder's tokenizer. */
  readonly marker: string | null;
  /** Site of the embedder that is read. */
  readonly site: string;
  /** Of the projector's RMSNorm. */
  readonly eps: number;
  /** [embedder width, inner width, hidden size of the language model], or null where it is not recorded. */
  readonly projector: readonly [number, number, number] | null;
}

const POOLINGS: readonly string[] = ["marker", "last", "mean"];
const KEYS = ["version", "chunkSize", "window", "pooling", "marker", "site", "eps", "projector"];
export const SETTINGS_FILE = "chatspace.json";

/**
 * Settings from the checkpoint's chatspace.json (its `compressedPrompt`, or null where there is none) and
 * the chunk size a caller gave.
 *
 * @throws DataError ERR_MEMORY_CHUNK_SIZE when the two differ or neither is there; ERR_MEMORY_CHECKPOINT
 *   when the recorded settings are no settings.
 */
export function compressionSettings(
  file: string,
  recorded: unknown,
  given: number | undefined,
): CompressionSettings {
  if (recorded === null || recorded === undefined) {
    if (given === undefined)
      throw chunkSize(file, "a recorded chunk size, or one given for a checkpoint without", "neither", given);
    return settingsOf(file, { version: 1, chunkSize: given });
  }
  const settings = settingsOf(file, recorded);
  if (given !== undefined && given !== settings.chunkSize)
    throw chunkSize(file, `the chunk size of the checkpoint, ${settings.chunkSize}`, `${given}`, given);
  return settings;
}

function settingsOf(file: string, value: unknown): CompressionSettings {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw bad(file, "compressedPrompt as an object", describe(value));
  const record = value as Record<string, unknown>;
  for (const key of Object.keys(record))
    if (!KEYS.includes(key))
      throw bad(file, `keys among ${KEYS.join(", ")}`, `"${key}"${suggestion(nearest(key, KEYS))}`);
  if (record.version !== 1) throw bad(file, "version 1", describe(record.version));
  const chunk = natural(file, "chunkSize", record.chunkSize);
  const window = record.window === undefined ? chunk : natural(file, "window", record.window);
  const pooling = record.pooling ?? "marker";
  if (typeof pooling !== "string" || !POOLINGS.includes(pooling))
    throw bad(file, `pooling among ${POOLINGS.join(", ")}`, describe(pooling));
  if (window % chunk !== 0) throw bad(file, `a window that is a multiple of chunkSize ${chunk}`, `${window}`);
  if (pooling === "marker" && window !== chunk)
    throw bad(file, "a window of one chunk where each chunk ends in a marker", `${window}`);
  const { marker = null, site = "final", eps = 1e-6 } = record;
  if (marker !== null && typeof marker !== "string") throw bad(file, "marker as a string", describe(marker));
  if (typeof site !== "string") throw bad(file, "site as a string", describe(site));
  if (typeof eps !== "number" || !(eps > 0)) throw bad(file, "eps as a number above 0", describe(eps));
  return {
    chunkSize: chunk,
    window,
    pooling: pooling as ChunkPooling,
    marker,
    site,
    eps,
    projector: projectorShape(file, record.projector),
  };
}

function projectorShape(file: string, value: unknown): CompressionSettings["projector"] {
  if (value === undefined || value === null) return null;
  if (!Array.isArray(value) || value.length !== 3)
    throw bad(file, "projector as [embedder width, inner width, hidden size]", describe(value));
  return value.map((size) => natural(file, "projector", size)) as [number, number, number];
}

function natural(file: string, key: string, value: unknown): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value > 0 && value <= 1 << 20) return value;
  throw bad(file, `${key} as an integer from 1 up to ${1 << 20}`, describe(value));
}

function chunkSize(file: string, expected: string, got: string, given: number | undefined): DataError {
  return new DataError("ERR_MEMORY_CHUNK_SIZE", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got, given: given ?? null },
    remedies: [
      "Leave --chunk-size out where the checkpoint records it.",
      `Write what the checkpoint was trained with into ${SETTINGS_FILE}: { "compressedPrompt": { "version": 1, "chunkSize": 16, "pooling": "marker" } }`,
    ],
  });
}

function bad(file: string, expected: string, got: string): DataError {
  return new DataError("ERR_MEMORY_CHECKPOINT", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got },
    remedies: ["docs/compressed-prompts.md describes the checkpoint and its chatspace.json."],
  });
}
