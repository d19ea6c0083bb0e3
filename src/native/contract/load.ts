// SPDX-License-Identifier: Apache-2.0
// Part of the contract (../contract.ts): what a model is loaded with and what was found.

/** Dtype of weights and KV cache. Activations, residual stream and steering are float32 on the CPU. */
export type NativeDtype = "float32" | "bfloat16" | "float16";

export type NativeQuantize = "none" | "stored" | "int8" | "int4";
export type NativeActivations = "float32" | "int16";

export type NativeCudaGraphs = "off" | "on";
export type NativeFlashAttention = "off" | "on";

export interface NativeLoadOptions {
  /** Path of a TorchScript archive (our own or a stranger's). */
  path: string;
  /** "cpu" or "cuda:N". */
  device: string;
  /** "auto" keeps what the archive holds (quantised source weights become float32). */
  dtype: NativeDtype | "auto";
  /**
   * Matrices of our own archives: "none" = dequantised to dtype; "stored" = Q8_0, Q4_0 and Q4_1 stay as
   * they are (on the CPU products are bit-equal to those of the float32 copy); "int8" = Q8_0;
   * "int4" = Q4_1, embedding table and head Q8_0.
   */
  quantize: NativeQuantize;
  /**
   * How products with quantised matrices read their activations: "float32" (bit-equal to the float32 copy) or
   * "int16" (integer sums); "auto" = "int16" for quantize "int8" and "int4".
   */
  activations: NativeActivations | "auto";
  /** Threads of the model's pool, 1 or more. */
  threads: number;
  /** Module path of the numbered layer list in a stranger's archive; null = the longest one. */
  layersPath: string | null;
  /** Most tokens of one step (prefill chunk + decodes). */
  tokenBudget: number;
  /** Most requests that run at once. */
  maxBatch: number;
  /** Bytes of KV cache that may be taken; 0 = a quarter of the memory that is free at load. */
  cacheBytes: number;
  /** "on": decode steps of our own archives on CUDA are recorded in CUDA graphs and replayed. */
  cudaGraphs: NativeCudaGraphs;
  /** "on": prompt chunks of our own archives on CUDA go to libtorch's flash attention where it can compute them. */
  flashAttention: NativeFlashAttention;
  /** CUDA: a row's bits do not depend on the rows beside it. The CPU is always so. */
  reproducible: boolean;
}

/** What `load` found. JSON-safe. */
export interface NativeModelInfo {
  kind: "own" | "foreign";
  /** chatspace.json of our own archives, "" for a stranger's. */
  metadata: string;
  layers: number;
  hiddenSize: number;
  vocabSize: number;
  /** Positions the model can hold; 0 = not known (a stranger's). */
  contextLength: number;
  device: string;
  dtype: NativeDtype;
  quantize: NativeQuantize;
  /** "int16": products with quantised matrices are integer products of int16 activations. */
  activations: NativeActivations;
  /** "calls": an archive of ours, run as a flat list of calls; "interpreter": by TorchScript's. The same bits. */
  forward: "calls" | "interpreter";
  threads: number;
  /** How a layer returns its state; found in the metadata or by a probe, never guessed. */
  layerOutput: "delta-residual" | "hidden";
  /** Module path of the layer list, for example "layers" or "model.layers". */
  layersPath: string;
  /** Canonical names of the sites that can be steered and captured, with width. */
  sites: { name: string; path: string; width: number }[];
  /** false: the prefix is recomputed at each token (a stranger's archive without a past). */
  cached: boolean;
  weightBytes: number;
  /** sha256 of the archive's weight records (hex). */
  weightHash: string;
}
