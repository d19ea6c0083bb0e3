// SPDX-License-Identifier: Apache-2.0
// Part of the contract (../contract.ts): what a request answers.

export interface NativeTokensEvent {
  type: "tokens";
  tokens: Int32Array;
  /** Empty when not asked for. */
  logprobs: Float32Array;
  /** [tokens, k] row-major; empty when k = 0. */
  topIds: Int32Array;
  topLogprobs: Float32Array;
  /** [tokens, probes] row-major: readings of the row that chose each token. */
  probes: Float32Array;
}

export interface NativeCapturesEvent {
  type: "captures";
  /** One entry per capture with rows in this chunk, in the order of the request. */
  captures: NativeCaptureResult[];
  /** What acknowledge() is told when the rows have been dealt with. */
  bytes: number;
}

export interface NativeCaptureResult {
  site: string;
  /** Positions of the rows in the sequence; of a pooled row, the last one pooled. */
  positions: Int32Array;
  /** [positions.length, width] row-major float32. */
  data: Float32Array;
  /** Values of one row: the site's width, or what a reduction leaves. */
  width: number;
  /** Of a top k: which outputs, [positions.length, width]; else empty. */
  indices: Int32Array;
}

export type NativeFinish = "length" | "stop-id" | "stop-text" | "context" | "aborted" | "prompt";

export interface NativeDoneEvent {
  type: "done";
  finish: NativeFinish;
  /** Index into stopBytes that matched, else -1. */
  stopIndex: number;
  /** All generated ids, the stop id included. */
  tokens: Int32Array;
  /** [prompt tokens]; entry 0 is NaN. Empty when not asked for. */
  promptLogprobs: Float32Array;
  logits: Float32Array;
  /** Empty for a stream. */
  captures: NativeCaptureResult[];
  /** One per probe, every row of prompt and generation, width 1. */
  probes: NativeCaptureResult[];
  /** Per operation of the program, in its order: rows touched and sum over rows of |h' - h|. */
  touched: Float64Array;
  changeNorms: Float64Array;
  /** Per operation: rows it acted on whose keys and values came from the prefix cache; 0 of a gated one. */
  reused: Float64Array;
  promptTokens: number;
  /** Prompt tokens taken from the prefix cache. */
  cachedTokens: number;
  queuedMs: number;
  promptMs: number;
  generateMs: number;
  /** The same in steps of the engine. */
  queuedSteps: number;
  promptSteps: number;
  generateSteps: number;
  /** Times it gave its cache blocks up to an older request and computed its rows again. */
  preemptions: number;
}

export interface NativeErrorEvent {
  type: "error";
  code: string;
  message: string;
  /** JSON object. */
  details: string;
}

export type NativeEvent = NativeTokensEvent | NativeCapturesEvent | NativeDoneEvent | NativeErrorEvent;
