// SPDX-License-Identifier: Apache-2.0
// Part of the contract (../contract.ts): an archive to be written.

import type { NativeDtype } from "./load.ts";

/** Where a weight's bytes lie. `type` is a safetensors dtype (F32, F16, BF16) or a GGUF type (Q4_1, ...). */
export interface NativeWeightSource {
  file: string;
  offset: number;
  bytes: number;
  type: string;
  /** Row-major, outermost first, in elements. */
  shape: number[];
  /** Store the transpose (GPT-2's Conv1D). Only for F32, F16, BF16. */
  transpose: boolean;
  /** > 0: rows are in llama.cpp's interleaved rope order for this many heads; store them in half order. */
  ropeHeads: number;
  /** First row and number of rows to take (fused source matrices); rows -1 = all. */
  rowStart: number;
  rows: number;
  /** Added to every element at load (Gemma's 1 + w norms); 1-D weights only. */
  addend: number;
  /** F32, F16, BF16, Q8_0 or Q4_1: stored so, matrices only, after the rest; "" = as it is. */
  store: string;
}

/** One module instance of an archive to be written. */
export interface NativeModulePlan {
  /** "" for the root, "layers.0", "layers.0.attn", ... Parents come after their children. */
  path: string;
  /** Name of a module section of the family's TorchScript source. */
  kind: string;
  /** Scalars the source reads as self.NAME. */
  attributes: { name: string; type: "int" | "float" | "bool" | "str"; value: number | boolean | string }[];
  /** Tensors; source null = an absent optional (None). */
  weights: { name: string; optional: boolean; source: NativeWeightSource | null }[];
}

export interface NativeConvertPlan {
  /** Written atomically: temporary name, fsync, rename. */
  output: string;
  /** TorchScript source by module kind. */
  sources: { kind: string; text: string }[];
  modules: NativeModulePlan[];
  /** What loading with dtype "auto" takes; "" = the dtype of most matrices, float32 for block types. */
  dtype: NativeDtype | "";
  /**
   * Attention and rotary specs of the KV cache, one object shared by every module whose source reads
   * `self.kv`. Text, numbers as %.9g:
   *   chatspace-cache 1
   *   rope ATTENTION_FACTOR COUNT INVERSE_FREQUENCY...
   *   layer HEADS KV_HEADS HEAD_DIM ROTARY_DIM INTERLEAVED(0|1) ROPE(-1 = none) SCALE SOFTCAP WINDOW
   */
  cache: string;
  /** Extra files of the archive: chatspace.json, tokenizer.json, ... */
  extraFiles: { name: string; bytes: Uint8Array }[];
}
