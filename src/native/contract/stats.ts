// SPDX-License-Identifier: Apache-2.0
// Part of the contract (../contract.ts): what the engine and its operators count.

/** Counters run from the load. Consistent with one another, as of the end of a step. */
export interface NativeStats {
  /** Requests that run, and that wait for a place or for cache blocks. */
  running: number;
  waiting: number;
  /** Accepted so far. */
  requests: number;
  /** Different steering programs that are held compiled, for requests that run and the first that wait. */
  programs: number;
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
