// SPDX-License-Identifier: Apache-2.0
// Part of the contract (../contract.ts): a request, its steering program and its captures.

export type NativeOpKind = "add" | "cap" | "ablate" | "replace" | "rotate" | "addNorm" | "swap" | "subspace";

export interface NativeGate {
  /** Where the reading is made; "" = the row itself, as it stands at the operation's turn. */
  site: string;
  /** [width of that site]; C++ normalises it. */
  direction: Float32Array;
  threshold: number;
  /** Open above the threshold, else below. */
  above: boolean;
  /** Divided by |h|. */
  cosine: boolean;
  /** Read on the last prompt token, decides for all generated rows; prompt rows are left alone. */
  latch: boolean;
}

/** One operation of a program, defaults filled in, vectors of the right width. */
export interface NativeOperation {
  /** Canonical site name: "layers.16", "layers.16.attn", "embed", "final", or a submodule path. */
  site: string;
  op: NativeOpKind;
  /** [width of the site], as given by the caller; C++ normalises directions. subspace: [rank, width]. */
  vector: Float32Array;
  /** swap: [width], the direction the component goes to. subspace: [3, rank] push, keep, mean. Else null. */
  second: Float32Array | null;
  /** rotate: radians. */
  scale: number;
  /** -Infinity = no bound. */
  min: number;
  /** +Infinity = no bound. addNorm: longest step as a fraction of |h|. */
  max: number;
  mean: number;
  /** replace: 0 keeps h, 1 takes the vector. */
  amount: number;
  keepNorm: boolean;
  phase: "all" | "prompt" | "generation";
  /** Pairs [start, end) of absolute positions, or null for all. */
  positions: Int32Array | null;
  /** Acts on generated rows g (0 = first generated token fed back) with after <= g < first. */
  afterGenerated: number;
  firstGenerated: number;
  /** Acts only where the row's input token is one of these; null = any. */
  tokenIds: Int32Array | null;
  /** Pairs (generated index, factor), ascending, lines between them; null = 1 everywhere. */
  schedule: Float32Array | null;
  gate: NativeGate | null;
}

/** What a captured row is reduced to on the device. */
export interface NativeReduction {
  /** h.d for each row of weight; W h + bias (encoder of a sparse autoencoder); log-probabilities. */
  kind: "directions" | "encoder" | "lens";
  /** [outputs, width]; null for a lens. */
  weight: Float32Array | null;
  /** [outputs], encoder only. */
  bias: Float32Array | null;
  relu: boolean;
  /** Directions, given with norm 1, divided by |h|. */
  cosine: boolean;
  /** The k largest, largest first, with their indices; 0 = all. */
  topK: number;
}

export interface NativeCapture {
  site: string;
  phase: "all" | "prompt" | "generation";
  positions: Int32Array | null;
  /** "none": every row. "mean" / "last" / "first": one row over the selected rows. */
  pool: "none" | "mean" | "last" | "first";
  /** null = whole rows. */
  reduce: NativeReduction | null;
}

/** One number of every row: h.direction, divided by |h| with cosine (direction of norm 1). */
export interface NativeProbe {
  site: string;
  direction: Float32Array;
  cosine: boolean;
}

export interface NativeSampling {
  /** 0 = greedy. */
  temperature: number;
  /** 0 = off. */
  topK: number;
  /** 1 = off. */
  topP: number;
  /** 0 = off. */
  minP: number;
  /** 1 = off. */
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  /** Integer, 0 <= seed < 2^53. */
  seed: number;
  biasIds: Int32Array;
  biasValues: Float32Array;
}

export interface NativeRequest {
  /** Prompt token ids, at least one. */
  tokens: Int32Array;
  /** Rows of the prompt whose embedding is given instead of looked up, ascending; null = none. */
  embeddingRows: Int32Array | null;
  /** [embeddingRows.length, hidden] row-major. */
  embeddings: Float32Array | null;
  /** 0 = run the prompt only. */
  maxTokens: number;
  /** Stop ids are held back until this many tokens are out. */
  minTokens: number;
  stopIds: Int32Array;
  /** Stop strings as UTF-8; matched on the bytes of the generated tokens (needs setTokenBytes). */
  stopBytes: Uint8Array[];
  sampling: NativeSampling;
  /** -1 = none, 0 = of the chosen token, k = and the k best. Of the distribution before temperature. */
  logprobs: number;
  promptLogprobs: boolean;
  /** May take a prefix of the prompt from the cache where this program acts on it in the same way. */
  reuse: boolean;
  /** Raw logits of prompt rows: [1, vocab] for "last", [tokens, vocab] for "all". */
  logits: "none" | "last" | "all";
  program: NativeOperation[];
  captures: NativeCapture[];
  /** Rows of captures arrive in "captures" events while the request runs; null = in the last event. */
  stream: NativeCaptureStream | null;
  probes: NativeProbe[];
}

/**
 * How captures leave while a request runs. Rows come in order and each once; a chunk holds the rows of the
 * same steps for every capture. Pooled captures come in the last chunk.
 *
 * The bytes of a chunk count against bufferBytes until acknowledge(). When half of it is used the
 * request is paused at a step boundary and goes on when less is; its neighbours do not notice. A step
 * takes no more of a prompt than there is room for (of a stranger's archive, which runs prompts whole: all).
 */
export interface NativeCaptureStream {
  /** Send when this much has been made, and at the end; 0 = after every step. At most bufferBytes / 2. */
  chunkBytes: number;
  bufferBytes: number;
}
