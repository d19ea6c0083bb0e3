// SPDX-License-Identifier: Apache-2.0
// What comes back from a model: the shapes of every answer, and their assembly from the addon's events.

import type { NativeCaptureResult, NativeDoneEvent, NativeOperation } from "../native/contract.ts";
import type { CompiledProgram } from "../steering/program.ts";

/** What one operation of the program did, counted where the arithmetic happens. */
export interface AppliedOperation {
  /** Index of the operation in the program given. */
  operation: number;
  site: string;
  op: NativeOperation["op"];
  /** Rows (token positions) the operation was applied to. */
  rows: number;
  /**
   * Rows more that it had acted on when their prefix was cached; computed by an earlier equal request. Of a
   * gated operation always 0: for which of those rows its gate was open is not kept with the cache.
   */
  reusedRows: number;
  /** Mean over those rows of |h' - h|; 0 when no row was touched. */
  meanChangeNorm: number;
}

/** Activations read at one site. */
export interface Capture {
  site: string;
  /** Row-major float32, always of h = delta + residual, after steering. */
  data: Float32Array;
  /** [rows, width of the site, or values of the reduction]. */
  shape: [rows: number, width: number];
  /** Position in the sequence of each row; of a pooled row, the last position pooled. */
  positions: Int32Array;
  /** Of a reduction to the k largest: which feature or token each value is of, row-major like `data`. */
  indices?: Int32Array;
}

/** What a probe read, row by row. */
export interface ProbeReading {
  site: string;
  /** One value per row: every prompt token, then every generated token but the last. */
  values: Float32Array;
  /** Position in the sequence of each value. */
  positions: Int32Array;
}

export interface Usage {
  promptTokens: number;
  /** Prompt tokens whose keys and values were reused from the prefix cache. */
  cachedTokens: number;
  generatedTokens: number;
}

/** Where a request's time went: before it started, up to its first token, and after that. */
export interface Timing {
  /** Milliseconds. */
  queuedMs: number;
  promptMs: number;
  generateMs: number;
  /** The same in steps of the engine, which do not depend on the machine's speed. */
  queuedSteps: number;
  promptSteps: number;
  generateSteps: number;
  /** Times the request gave its cache blocks up to an older one and computed its rows again. */
  preemptions: number;
}

/** Log-probabilities (natural log) of the generated tokens, before temperature and penalties. */
export interface TokenLogprobs {
  /** [tokens]. */
  tokens: Float32Array;
  /** For each token the k most likely ids with their logprobs; empty when k = 0. */
  top: { id: number; logprob: number }[][];
}

export interface Steered {
  /** One entry per operation and site, in program order; empty when no program was given. */
  steering: AppliedOperation[];
  /** Things to know: an operation that touched no row, a vector of another model. */
  warnings: string[];
}

export type FinishReason = "length" | "stop" | "context";

export interface GenerateResult extends Steered {
  /** The generated text, without the stop string and without special tokens. */
  text: string;
  /** All generated token ids, a stop id included. */
  tokens: Int32Array;
  promptTokens: Int32Array;
  /** "stop": a stop id or string; "length": maxTokens; "context": the model's context is full. */
  finishReason: FinishReason;
  /** The stop string or id that ended it, or null. */
  stoppedBy: string | number | null;
  logprobs?: TokenLogprobs;
  /** By canonical site name. */
  captures?: Record<string, Capture>;
  /** By the probe's name; with `probes` alone. */
  probes?: Record<string, ProbeReading>;
  /** The seed that was used; give it again for the same sample. */
  seed: number;
  usage: Usage;
  timing: Timing;
}

export interface ForwardResult extends Steered {
  tokens: Int32Array;
  /** Row-major float32 logits; empty for logits: "none". */
  logits: Float32Array;
  /** [rows, vocabulary]: rows is the number of tokens, 1 or 0. */
  shape: [rows: number, vocab: number];
  captures: Record<string, Capture>;
  /** By the probe's name; with `probes` alone. */
  probes?: Record<string, ProbeReading>;
  usage: Usage;
  timing: Timing;
}

export interface ScoreResult extends Steered {
  tokens: Int32Array;
  /** log p(token | tokens before it), [tokens]; entry 0 is NaN, nothing comes before it. */
  logprobs: Float32Array;
  /** Mean negative log-likelihood per token, in nats, over all but the first token. */
  meanNll: number;
  /** exp(meanNll). */
  perplexity: number;
  usage: Usage;
  timing: Timing;
}

export function appliedSteering(program: CompiledProgram, done: NativeDoneEvent): Steered {
  const warnings = [...program.warnings];
  const steering = program.operations.map((operation, index) => {
    const rows = done.touched[index] ?? 0;
    const reusedRows = done.reused[index] ?? 0;
    if (rows + reusedRows === 0) {
      const why = changesNothing(operation)
        ? "it changes nothing as given"
        : operation.gate
          ? "its scope selected nothing or its gate stayed shut"
          : "its scope selected nothing";
      warnings.push(
        `steering[${program.sources[index]}] (${operation.op} at ${operation.site}) touched no row: ${why}`,
      );
    }
    return {
      operation: program.sources[index]!,
      site: operation.site,
      op: operation.op,
      rows,
      reusedRows,
      meanChangeNorm: rows === 0 ? 0 : (done.changeNorms[index] ?? 0) / rows,
    };
  });
  return { steering, warnings };
}

/** Operations that are the identity are left out by the engine, so that they cost nothing. */
function changesNothing(operation: NativeOperation): boolean {
  const { op, scale, max, amount, vector, second, schedule } = operation;
  if (schedule?.every((factor, i) => i % 2 === 0 || factor === 0)) return true;
  if (op === "add") return scale === 0 || vector.every((x) => x === 0);
  if (op === "rotate" || op === "addNorm") return scale === 0 || max === 0;
  if (op === "subspace" && second) {
    const rank = second.length / 3;
    return second.every((x, i) => i >= 2 * rank || x === (i < rank ? 0 : 1));
  }
  return (op === "ablate" && scale === 1) || (op === "replace" && amount === 0);
}

export function captureResults(captures: readonly NativeCaptureResult[]): Record<string, Capture> {
  const bySite: Record<string, Capture> = {};
  for (const { site, data, positions, width, indices } of captures) {
    const one: Capture = {
      ...{ site, data, shape: [positions.length, width], positions },
      ...(indices.length > 0 ? { indices } : {}),
    };
    const before = bySite[site];
    bySite[site] = before ? joined(before, one) : one;
  }
  return bySite;
}

/** Rows of the same site that were pooled apart. */
function joined(a: Capture, b: Capture): Capture {
  const data = new Float32Array(a.data.length + b.data.length);
  data.set(a.data);
  data.set(b.data, a.data.length);
  const positions = Int32Array.of(...a.positions, ...b.positions);
  return { site: a.site, data, shape: [positions.length, a.shape[1]], positions };
}

/** { probes } of an answer, by name; {} when none were asked for. */
export function probeResults(
  names: readonly string[],
  done: NativeDoneEvent,
): { probes?: Record<string, ProbeReading> } {
  if (names.length === 0) return {};
  const readings = names.map((name, i): [string, ProbeReading] => {
    const { site, data, positions } = done.probes[i]!;
    return [name, { site, values: data, positions }];
  });
  return { probes: Object.fromEntries(readings) };
}

export function usageAndTiming(done: NativeDoneEvent): { usage: Usage; timing: Timing } {
  return {
    usage: {
      promptTokens: done.promptTokens,
      cachedTokens: done.cachedTokens,
      generatedTokens: done.tokens.length,
    },
    timing: {
      queuedMs: done.queuedMs,
      promptMs: done.promptMs,
      generateMs: done.generateMs,
      queuedSteps: done.queuedSteps,
      promptSteps: done.promptSteps,
      generateSteps: done.generateSteps,
      preemptions: done.preemptions,
    },
  };
}

/** Rows of (token, k best) from the flat arrays of the token events. */
export function topLogprobs(ids: Int32Array, values: Float32Array, rows: number): TokenLogprobs["top"] {
  const k = rows === 0 ? 0 : ids.length / rows;
  if (k === 0) return [];
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: k }, (_, i) => ({ id: ids[row * k + i]!, logprob: values[row * k + i]! })),
  );
}
