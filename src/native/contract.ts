// SPDX-License-Identifier: Apache-2.0
// The whole boundary between TypeScript and the addon. `npm run check:contract` compares it with what
// the addon exports. Everything that crosses is a typed array or a fully defaulted plain object:
// TypeScript has checked it, C++ re-checks only what could corrupt memory.

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
  /** Per operation: rows it acted on whose keys and values came from the prefix cache. */
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

/** Counters run from the load. Consistent with one another, as of the end of a step. */
export interface NativeStats {
  /** Requests that run, and that wait for a place or for cache blocks. */
  running: number;
  waiting: number;
  /** Accepted so far. */
  requests: number;
  steps: number;
  /** Prompt tokens computed. */
  promptTokens: number;
  /** Rows of generated tokens computed (the last token of an answer is never fed back). */
  generatedTokens: number;
  /** Prompt tokens taken from the prefix cache. */
  cachedTokens: number;
  /** Rows computed again: after a preemption, or because a stranger's archive has no cache. */
  recomputedTokens: number;
  /** Times a request gave its blocks up to an older one. */
  preemptions: number;
  /** Rows and requests of the last step, the most rows of any step, and means over all steps. */
  stepRows: number;
  stepSequences: number;
  largestStepRows: number;
  meanStepRows: number;
  meanStepSequences: number;
  /** Seconds spent in steps. */
  stepSeconds: number;
  /** Over the last ten seconds, or since the load where that is less. */
  promptTokensPerSecond: number;
  generatedTokensPerSecond: number;
  /** CUDA graphs recorded, steps replayed from them, decode steps too large for their tables and run eagerly. */
  graphsRecorded: number;
  graphSteps: number;
  graphOverflows: number;
  /** Attention layers of prompt chunks that libtorch's flash attention computed, over all steps. */
  flashLayers: number;
  cacheBlocks: number;
  /** In use by running requests. */
  cacheBlocksUsed: number;
  /** In use by nobody, kept for their content. */
  cacheBlocksKept: number;
  /** Blocks of prefixes that starting requests looked for, those found, and those given up for room. */
  cacheLookups: number;
  cacheHits: number;
  cacheEvictions: number;
  weightBytes: number;
  cacheBytes: number;
  /** Captures and probe readings held for requests that have not ended. */
  captureBytes: number;
}

/** A loaded model: one executor thread, which alone touches the device. Freed by dispose(). */
export interface NativeModel {
  readonly info: NativeModelInfo;
  /** Extra file of the archive ("tokenizer.json", ...), or null. */
  extraFile(name: string): Uint8Array | null;
  /** Bytes of each token, for stop strings: offsets [vocab + 1] into bytes. */
  setTokenBytes(bytes: Uint8Array, offsets: Int32Array): void;
  /** Queues a request; events arrive on this thread, the last one is "done" or "error". Returns its id. */
  submit(request: NativeRequest, onEvent: (event: NativeEvent) => void): number;
  /** Ends a request at the next step boundary with finish "aborted". Unknown ids are ignored. */
  abort(id: number): void;
  /** Bytes of a request's captures events that have been dealt with. Unknown ids are ignored. */
  acknowledge(id: number, bytes: number): void;
  /** Every submodule path with its class name. */
  moduleTree(): { path: string; type: string }[];
  stats(): NativeStats;
  /** Aborts what runs, joins the thread, frees the memory. Idempotent. */
  dispose(): Promise<void>;
}

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

export interface NativeAddon {
  readonly versions: { addon: string; torch: string; napi: number; contract: number };
  /** Instruction sets found and used, cores this process may use, CUDA devices (empty without CUDA). */
  machine(): { isa: string; cores: number; cuda: { index: number; name: string; bytes: number }[] };
  load(options: NativeLoadOptions): Promise<NativeModel>;
  /** Progress: source bytes brought into another type, then bytes written, of the sum of both. */
  convert(
    plan: NativeConvertPlan,
    onProgress: (bytesDone: number, bytesTotal: number) => void,
  ): Promise<void>;
  /** GGUF or safetensors elements as float32 (for vectors, checks and tests). */
  dequantize(type: string, bytes: Uint8Array, elements: number): Float32Array;
  /** GB/s of a plain threaded read loop over `bytes` of memory, best of `runs`. */
  readBandwidth(bytes: number, threads: number, runs: number): number;
  /**
   * Where the steps of all models of the process spend their time. "start" counts from zero, "stop" ends;
   * every call returns what was counted until then. Off (the default) it costs nothing.
   */
  profile(action: "start" | "read" | "stop"): NativeOperatorProfile[];
  /**
   * The ends of the steps since the profile was started, oldest first, the last 16,384 of them: [steps, 3 +
   * operators] row-major. Columns: rows of the step, nanoseconds of the clock, nanoseconds of processor time of
   * the whole process, then each operator's own nanoseconds so far, in the order of profile().
   */
  profileSteps(): Float64Array;
}

/** What one operator cost since a profile was started. */
export interface NativeOperatorProfile {
  operator: string;
  calls: number;
  /** Wall time without the operators called inside. */
  nanoseconds: number;
  /** Time in which threads had nothing to do, summed over the threads of the model. */
  idleNanoseconds: number;
  /** Weights read. */
  bytes: number;
}

/** Raised when contract.ts and the addon differ. */
export const CONTRACT_VERSION = 1;
