// SPDX-License-Identifier: Apache-2.0
// What an encoder is to the pipeline: a window of rows in, one vector a row out, in the same order.

import type { Pooling } from "../config.ts";

/** A model as the parent process found it. JSON-safe, handed to the stages. */
export interface ModelSpec {
  kind: "onnx" | "decoder" | "endpoint";
  /** Name in paths and manifest. */
  name: string;
  /** ONNX file, decoder archive, or base URL. */
  path: string;
  /** tokenizer.json and tokenizer_config.json, where the pipeline tokenises. */
  tokenizer: string | null;
  tokenizerConfig: string | null;
  /** "model" = the network's own output is one vector a row. */
  pooling: Pooling | "model";
  normalize: boolean;
  /** Which file said so: "1_Pooling/config.json", "option", "default", ... */
  poolingSource: string;
  normalizeSource: string;
  maxTokens: number;
  padId: number;
  /** sha256 of the model's weights and tokenizer, or what identifies a remote one. */
  identity: Record<string, string>;
  site: string | null;
  steering: string | null;
}

/** Rows of a window. */
export interface EncodeRequest {
  rows: number;
  /** Token ids of all rows, one after another, and where each begins ([rows + 1]); null for text encoders. */
  ids: Int32Array | null;
  offsets: Int32Array | null;
  /** Texts, for encoders that tokenise themselves. */
  texts: readonly string[] | null;
  /** Told after each batch, for progress. */
  onBatch?: (batch: { rows: number; tokens: number; paddedTokens: number }) => void;
}

export interface EncodeResult {
  /** [rows, dim] row-major, in the order of the request. */
  embeddings: Float32Array;
  dim: number;
  /** Tokens of the rows, and tokens computed with padding. */
  tokens: number;
  paddedTokens: number;
  batches: number;
}

export interface BatchLimits {
  tokensPerBatch: number | null;
  batchSize: number | null;
  minTokens: number;
  /** Cost of a batch beside its tokens, in tokens; default that of a processor. */
  batchCost?: number;
}

/** A loaded encoder. Owned by one process; not for use from two callers at once. */
export interface Encoder {
  /** true: give texts; false: give token ids. */
  readonly wantsText: boolean;
  encode(request: EncodeRequest): Promise<EncodeResult>;
  /** Runs lengths that will come and says how long each took, in ms. */
  warmUp(lengths: readonly number[]): Promise<Record<string, number>>;
  close(): Promise<void>;
}
