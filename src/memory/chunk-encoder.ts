// SPDX-License-Identifier: Apache-2.0
// Memory tokens to one vector a chunk: fixed chunks, run through the embedder in batches under a token
// budget. The engine runs rows of different lengths without padding, so no result depends on its batch.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DataError, ModelError, misuse } from "../errors.ts";
import type { LoadOptions } from "../model/load-options.ts";
import { SteerModel } from "../model/steer-model.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { modelPath } from "./checkpoint.ts";
import type { CompressionSettings } from "./settings.ts";

/** Most embedder tokens of one batch, where nothing else is said. */
export const DEFAULT_TOKEN_BUDGET = 8192;

/** One run of the embedder and the rows of it that make a vector each: [start, end). */
export interface ChunkRun {
  readonly tokens: Int32Array;
  readonly groups: readonly (readonly [number, number])[];
}

/** Rows that `tokens` embedder tokens become; an empty span is one row (its placeholder stays). */
export function rowsOf(tokens: number, chunkSize: number): number {
  return Math.max(1, Math.ceil(tokens / chunkSize));
}

/**
 * The runs of one span, in order; their groups are its chunks. Every token is in exactly one chunk, the
 * last one may be shorter.
 * @param marker id put behind each chunk, null unless the pooling is "marker"
 */
export function chunkRuns(
  tokens: Int32Array,
  settings: Pick<CompressionSettings, "chunkSize" | "window">,
  marker: number | null,
): ChunkRun[] {
  const runs: ChunkRun[] = [];
  for (let start = 0; start < tokens.length; start += settings.window) {
    const part = tokens.subarray(start, start + settings.window);
    if (marker !== null) {
      runs.push({ tokens: Int32Array.of(...part, marker), groups: [[part.length, part.length + 1]] });
      continue;
    }
    const groups: [number, number][] = [];
    for (let at = 0; at < part.length; at += settings.chunkSize)
      groups.push([at, Math.min(part.length, at + settings.chunkSize)]);
    runs.push({ tokens: part, groups });
  }
  return runs;
}

/** Consecutive runs of at most `budget` tokens together; a longer run is a batch of its own. */
export function planTokenBatches(runs: readonly ChunkRun[], budget: number): ChunkRun[][] {
  const batches: ChunkRun[][] = [];
  let used = Number.POSITIVE_INFINITY;
  for (const run of runs) {
    if (used + run.tokens.length > budget) {
      batches.push([]);
      used = 0;
    }
    batches.at(-1)!.push(run);
    used += run.tokens.length;
  }
  return batches;
}

/** The embedder of a checkpoint with its tokenizer. Owns a SteerModel: dispose of it. */
export class ChunkEncoder {
  /** Width of a chunk's vector. */
  readonly width: number;
  /** sha256 of the embedder's weights. */
  readonly weightHash: string;
  /** Dtype it runs in. */
  readonly dtype: string;
  readonly #model: SteerModel;
  readonly #settings: CompressionSettings;
  readonly #marker: number | null;
  readonly #budget: number;

  private constructor(
    model: SteerModel,
    settings: CompressionSettings,
    marker: number | null,
    width: number,
    budget: number,
  ) {
    this.#model = model;
    this.#settings = settings;
    this.#marker = marker;
    this.#budget = budget;
    this.width = width;
    this.weightHash = model.info.weightHash;
    this.dtype = model.info.dtype;
  }

  /**
   * @throws DataError ERR_MEMORY_CHECKPOINT when the embedder cannot do what the settings say; what
   *   SteerModel.load throws.
   */
  static async load(
    folder: string,
    settings: CompressionSettings,
    tokenizer: Tokenizer,
    options: { tokenBudget: number; model: LoadOptions },
  ): Promise<ChunkEncoder> {
    const marker = settings.pooling === "marker" ? markerId(folder, settings, tokenizer) : null;
    const model = await SteerModel.load(modelPath(folder), options.model);
    try {
      const site = model.sites.find(({ name, path }) => name === settings.site || path === settings.site);
      if (!site) throw bad(folder, `a site ${settings.site} in the embedder`, "none of that name");
      const longest = settings.window + (marker === null ? 0 : 1);
      const { contextLength } = model.info;
      if (contextLength > 0 && longest > contextLength)
        throw bad(folder, `chunks that fit the embedder's context of ${contextLength}`, `${longest} tokens`);
      return new ChunkEncoder(model, settings, marker, site.width, options.tokenBudget);
    } catch (error) {
      await model.dispose();
      throw error;
    }
  }

  /**
   * Vectors of the chunks of some spans, one span after another.
   * @param spans embedder tokens of each span, without special tokens; an empty one gives no chunk
   * @returns [chunks of all spans, width] row-major
   */
  async encode(spans: readonly Int32Array[], signal?: AbortSignal): Promise<Float32Array> {
    const runs = spans.flatMap((tokens) => chunkRuns(tokens, this.#settings, this.#marker));
    const chunks = runs.reduce((sum, run) => sum + run.groups.length, 0);
    const out = new Float32Array(chunks * this.width);
    let row = 0;
    for (const batch of planTokenBatches(runs, this.#budget)) {
      signal?.throwIfAborted();
      for (const vectors of await Promise.all(batch.map((run) => this.#run(run, signal)))) {
        out.set(vectors, row * this.width);
        row += vectors.length / this.width;
      }
    }
    return out;
  }

  async #run({ tokens, groups }: ChunkRun, signal: AbortSignal | undefined): Promise<Float32Array> {
    const pooling = this.#settings.pooling === "mean" ? "mean" : "last";
    const whole = groups.length === 1;
    const { captures } = await this.#model.forward(
      { tokens },
      {
        logits: "none",
        capture: { sites: [this.#settings.site], phase: "prompt", pool: whole ? pooling : "none" },
        ...(signal ? { signal } : {}),
      },
    );
    const data = Object.values(captures)[0]?.data;
    if (!data?.every(Number.isFinite))
      throw new ModelError("ERR_EMBEDDING_NOT_FINITE", "the embedder gave NaN or infinity for a chunk", {
        details: { tokens: tokens.length },
        remedies: ["Load it in float32: --dtype float32."],
      });
    return whole ? data : poolGroups(data, this.width, groups, pooling);
  }

  dispose(): Promise<void> {
    return this.#model.dispose();
  }
}

/** One vector a group of rows: the last row, or the mean (sums in float64). */
export function poolGroups(
  data: Float32Array,
  width: number,
  groups: readonly (readonly [number, number])[],
  pooling: "mean" | "last",
): Float32Array {
  const out = new Float32Array(groups.length * width);
  groups.forEach(([start, end], group) => {
    for (let k = 0; k < width; k++) {
      let sum = 0;
      const first = pooling === "mean" ? start : end - 1;
      for (let row = first; row < end; row++) sum += data[row * width + k]!;
      out[group * width + k] = sum / (end - first);
    }
  });
  return out;
}

// Code-LLaVA pools at the pad token.
function markerId(folder: string, settings: CompressionSettings, tokenizer: Tokenizer): number {
  const text = settings.marker ?? padToken(folder);
  const id = text === undefined ? undefined : tokenizer.idOf(text);
  if (id !== undefined) return id;
  throw bad(
    folder,
    "a marker token that the embedder's tokenizer has (compressedPrompt.marker, or its pad_token)",
    text === undefined ? "neither" : `"${text}"`,
  );
}

function padToken(folder: string): string | undefined {
  try {
    const config = JSON.parse(readFileSync(join(folder, "tokenizer_config.json"), "utf8")) as {
      pad_token?: string | { content?: string } | null;
    };
    const pad = config.pad_token;
    return typeof pad === "object" ? pad?.content : pad;
  } catch {
    return undefined;
  }
}

function bad(path: string, expected: string, got: string): DataError {
  return new DataError("ERR_MEMORY_CHECKPOINT", `${path}: expected ${expected}, got ${got}`, {
    details: { path, expected, got },
    remedies: ["docs/compressed-prompts.md describes the checkpoint and its chatspace.json."],
  });
}

/** @throws RangeError ERR_ARGUMENT_RANGE */
export function checkTokenBudget(value: number | undefined): number {
  if (value === undefined) return DEFAULT_TOKEN_BUDGET;
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw misuse(RangeError, "ERR_ARGUMENT_RANGE", "tokenBudget", "an integer from 1", value);
}
