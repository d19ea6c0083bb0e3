// SPDX-License-Identifier: Apache-2.0
// What a run is asked to do: the Python chatspace's fields under their names, and what came on top.

import { availableParallelism } from "node:os";
import { COMPRESSIONS, type Compression } from "../data/shards/compression.ts";
import { misuse } from "../errors.ts";

export const POOLINGS = ["mean", "cls", "max", "last", "mean-sqrt-len", "weighted-mean"] as const;
export type Pooling = (typeof POOLINGS)[number];

/** A half-open range of shard indices. */
export interface ShardRange {
  start: number;
  /** null = to the end of the data set. */
  end: number | null;
}

/** Settings of `embedDataset`. Only `dataset` must be given. */
export interface EmbedConfig {
  /** Hub name, local file, folder or glob. */
  dataset: string;
  subset?: string | null;
  /** Default "train". */
  split?: string;
  /** Hub branch, tag or commit; default "main". */
  revision?: string;
  /** Column to embed; default "text". */
  textField?: string;
  /** Hub name, folder with an ONNX encoder, or a decoder archive (with `site`). */
  model?: string;
  /** Names for folders and manifest, where the path's own would not do. */
  datasetName?: string | null;
  modelName?: string | null;
  /** Most rows of a batch; null = only the token budget counts. */
  batchSize?: number | null;
  /** Token budget of a batch: rows x longest row. Default 4096, or unlimited where batchSize is given. */
  tokensPerBatch?: number | null;
  /** Rows sorted by length together; default 2048. */
  windowRows?: number;
  /** Default 8192. Counts rows of the source, so a shard with skipped rows is shorter. */
  rowsPerShard?: number;
  maxRows?: number | null;
  /** Default "./chatspace-data". */
  outputRoot?: string;
  /** Path of the manifest, replacing the usual one. */
  manifestPath?: string | null;
  /** Takes rows in a seeded random order; with maxRows a uniform sample. */
  shuffleSeed?: number | null;
  /** Precision of the weights: "auto" takes the model's own; else picks the ONNX file of that precision. */
  dtype?: string;
  /** "cpu", "cuda", "cuda:N", or several by comma: one encoder process each. */
  device?: string;
  /** Accepted for the original's users; engines choose their attention themselves. */
  attention?: string | null;
  /** Windows that may wait before each stage; default 4. */
  prefetchBatches?: number;
  /** A row counts as at least so many tokens in the budget, which bounds the rows of a batch; default 8. */
  bucketMinTokens?: number;
  /** Rows are cut at so many tokens (and at the model's own limit); default 32768. */
  bucketMaxTokens?: number;
  /** Warm up over the lengths that will come, and report the times. */
  compileModel?: boolean;
  compileMode?: string;
  runId?: string | null;
  sourceLabel?: string | null;
  /** Go on with a run that was begun; begins one where there is none. */
  resume?: boolean;
  /** Forget a run of the same name and begin anew. */
  overwrite?: boolean;
  extractFirstAssistant?: boolean;
  /** Source columns to carry along, "name" or "name:type"; ["*"] = all. */
  columns?: readonly string[];
  pooling?: Pooling | null;
  normalize?: boolean | null;
  /** Site of a decoder to read, for example "layers.16". */
  site?: string | null;
  /** Steering program in its string form, or a path to one; for decoders. */
  steering?: string | null;
  outputDtype?: "float32" | "float16";
  compression?: Compression;
  shardRange?: ShardRange | null;
  /** Threads of each encoder process; default: the cores this process may use. */
  threads?: number | null;
  /** Tokeniser threads; default: cores - 1, between 1 and 4. */
  tokenizerThreads?: number | null;
  /** What a row that cannot be read does: stop the run, or be counted and left out. */
  onError?: "fail" | "skip";
  /** Base URL of an OpenAI-compatible server that embeds instead of a local model. */
  endpoint?: string | null;
  /** Text put before every row, as instruction-tuned encoders want it. */
  prefix?: string;
}

/** Every setting with its value. JSON-safe: it crosses process and machine borders. */
export type ResolvedConfig = { [K in keyof EmbedConfig]-?: Exclude<EmbedConfig[K], undefined> };

export const DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2";
const DEFAULT_TOKENS_PER_BATCH = 4096;

function positive(value: number | null, name: string): void {
  if (value === null) return;
  if (!Number.isSafeInteger(value) || value <= 0)
    throw misuse(RangeError, "ERR_OPTION_RANGE", name, "a whole number above 0", value);
}

function oneOf<T extends string>(value: T | null, allowed: readonly T[], name: string): void {
  if (value !== null && !allowed.includes(value))
    throw misuse(RangeError, "ERR_OPTION_RANGE", name, allowed.join(", "), value);
}

/** Fills in the defaults and checks every value at the door. */
export function resolveConfig(config: EmbedConfig): ResolvedConfig {
  if (typeof config.dataset !== "string" || config.dataset === "")
    throw misuse(TypeError, "ERR_OPTION_TYPE", "dataset", "a hub name, file, folder or glob", config.dataset);
  const cores = availableParallelism();
  const batchSize = config.batchSize ?? null;
  const resolved: ResolvedConfig = {
    dataset: config.dataset,
    subset: config.subset ?? null,
    split: config.split ?? "train",
    revision: config.revision ?? "main",
    textField: config.textField ?? "text",
    model: config.model ?? DEFAULT_MODEL,
    datasetName: config.datasetName ?? null,
    modelName: config.modelName ?? null,
    batchSize,
    tokensPerBatch: config.tokensPerBatch ?? (batchSize === null ? DEFAULT_TOKENS_PER_BATCH : null),
    windowRows: config.windowRows ?? 2048,
    rowsPerShard: config.rowsPerShard ?? 8192,
    maxRows: config.maxRows ?? null,
    outputRoot: config.outputRoot ?? "./chatspace-data",
    manifestPath: config.manifestPath ?? null,
    shuffleSeed: config.shuffleSeed ?? null,
    dtype: config.dtype ?? "auto",
    device: config.device ?? "cpu",
    attention: config.attention ?? null,
    prefetchBatches: config.prefetchBatches ?? 4,
    bucketMinTokens: config.bucketMinTokens ?? 8,
    bucketMaxTokens: config.bucketMaxTokens ?? 32_768,
    compileModel: config.compileModel ?? false,
    compileMode: config.compileMode ?? "default",
    runId: config.runId ?? null,
    sourceLabel: config.sourceLabel ?? null,
    resume: config.resume ?? false,
    overwrite: config.overwrite ?? false,
    extractFirstAssistant: config.extractFirstAssistant ?? false,
    columns: config.columns ?? [],
    pooling: config.pooling ?? null,
    normalize: config.normalize ?? null,
    site: config.site ?? null,
    steering: config.steering ?? null,
    outputDtype: config.outputDtype ?? "float32",
    compression: config.compression ?? "zstd",
    shardRange: config.shardRange ?? null,
    threads: config.threads ?? cores,
    tokenizerThreads: config.tokenizerThreads ?? Math.min(4, Math.max(1, cores - 1)),
    onError: config.onError ?? "fail",
    endpoint: config.endpoint ?? null,
    prefix: config.prefix ?? "",
  };
  positive(resolved.rowsPerShard, "rows_per_shard");
  positive(resolved.batchSize, "batch_size");
  positive(resolved.prefetchBatches, "prefetch_batches");
  positive(resolved.bucketMinTokens, "bucket_min_tokens");
  positive(resolved.bucketMaxTokens, "bucket_max_tokens");
  positive(resolved.tokensPerBatch, "tokens_per_batch");
  positive(resolved.maxRows, "max_rows");
  positive(resolved.windowRows, "window_rows");
  positive(resolved.threads, "threads");
  positive(resolved.tokenizerThreads, "tokenizer_threads");
  if (resolved.bucketMinTokens > resolved.bucketMaxTokens) {
    throw misuse(
      RangeError,
      "ERR_OPTION_RANGE",
      "bucket_min_tokens",
      `at most bucket_max_tokens (${resolved.bucketMaxTokens})`,
      resolved.bucketMinTokens,
    );
  }
  oneOf(resolved.pooling, POOLINGS, "pooling");
  oneOf(resolved.outputDtype, ["float32", "float16"], "output_dtype");
  oneOf(resolved.compression, COMPRESSIONS, "compression");
  oneOf(resolved.onError, ["fail", "skip"], "on_error");
  const seed = resolved.shuffleSeed;
  if (seed !== null && (!Number.isSafeInteger(seed) || seed < 0))
    throw misuse(RangeError, "ERR_OPTION_RANGE", "shuffle_seed", "a whole number from 0 on", seed);
  const range = resolved.shardRange;
  if (range !== null && (range.start < 0 || (range.end !== null && range.end <= range.start)))
    throw misuse(
      RangeError,
      "ERR_OPTION_RANGE",
      "shard_range",
      "start..end with end above start",
      `${range.start}..${range.end ?? ""}`,
    );
  if (resolved.resume && resolved.overwrite)
    throw misuse(TypeError, "ERR_OPTION_CONFLICT", "resume and overwrite", "one of the two", "both");
  if (resolved.site !== null && resolved.endpoint !== null)
    throw misuse(TypeError, "ERR_OPTION_CONFLICT", "site and endpoint", "one of the two", "both");
  if (resolved.steering !== null && resolved.site === null)
    throw misuse(TypeError, "ERR_OPTION_CONFLICT", "steering", "a decoder, so --site as well", "no site");
  return resolved;
}

/** `run_config` of the manifest: the original's snake_case names. */
export function snakeCaseConfig(config: ResolvedConfig): Record<string, unknown> {
  const renamed: Record<string, string> = { model: "model_name", attention: "attention_impl" };
  return Object.fromEntries(
    Object.entries(config).map(([key, value]) => [
      renamed[key] ?? key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value,
    ]),
  );
}
