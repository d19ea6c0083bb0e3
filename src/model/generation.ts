// SPDX-License-Identifier: Apache-2.0
// A running generation: a stream of text, and the answer it adds up to. What is streamed and what is
// returned at the end come from the same tokens by the same rules, so they cannot differ.

import type { NativeDoneEvent, NativeModel, NativeTokensEvent } from "../native/contract.ts";
import { Detokenizer } from "./detokenizer.ts";
import type { CompiledRequest } from "./request.ts";
import {
  appliedSteering,
  captureResults,
  type FinishReason,
  type GenerateResult,
  probeResults,
  type TokenLogprobs,
  topLogprobs,
  usageAndTiming,
} from "./results.ts";
import { runRequest } from "./run.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What one step of a stream brings. */
export interface StreamChunk {
  tokens: Int32Array;
  /** Text these tokens complete; may be empty while a character or a stop string is unfinished. */
  text: string;
  logprobs?: TokenLogprobs;
  /** By the probe's name: what it read at the row that chose each token. */
  probes?: Record<string, Float32Array>;
}

/**
 * The chunks of an answer as they are made. Leaving the loop ends the generation within one token.
 *
 * `result` settles when the stream has been read to its end; it rejects when the generation fails, is
 * aborted, or the loop is left early.
 */
export interface TextStream extends AsyncIterable<StreamChunk, GenerateResult> {
  readonly result: Promise<GenerateResult>;
}

/** Yields chunks and returns the answer. */
export async function* streamGeneration(
  native: NativeModel,
  request: CompiledRequest,
  tokenizer: Tokenizer | undefined,
): AsyncGenerator<StreamChunk, GenerateResult, undefined> {
  const text = tokenizer ? new Detokenizer(tokenizer, request.stop) : undefined;
  const events: NativeTokensEvent[] = [];
  const pieces: string[] = [];
  const running = runRequest(native, request.native, request.signal, request.onCaptures);
  try {
    for (;;) {
      const next = await running.next();
      if (next.done) {
        const rest = text?.end() ?? "";
        pieces.push(rest);
        if (rest !== "") yield { tokens: new Int32Array(0), text: rest };
        return finish(request, next.value, events, pieces.join(""));
      }
      events.push(next.value);
      const piece = text?.push(withoutStopId(next.value.tokens, request)) ?? "";
      pieces.push(piece);
      const logprobs = logprobsOf([next.value], request);
      yield {
        tokens: next.value.tokens,
        text: piece,
        ...(logprobs ? { logprobs } : {}),
        ...streamedProbes(next.value, request),
      };
    }
  } finally {
    // Reached by break and throw as well: runRequest aborts what still runs.
    await running.return(undefined as never).catch(() => undefined);
  }
}

/** Runs a generation to its end. */
export async function generate(
  native: NativeModel,
  request: CompiledRequest,
  tokenizer: Tokenizer | undefined,
): Promise<GenerateResult> {
  const running = streamGeneration(native, request, tokenizer);
  for (;;) {
    const next = await running.next();
    if (next.done) return next.value;
  }
}

/** A stream with a promise of the final answer beside it. */
export function textStream(running: AsyncGenerator<StreamChunk, GenerateResult, undefined>): TextStream {
  let settle: { resolve: (value: GenerateResult) => void; reject: (reason: unknown) => void } | undefined;
  const result = new Promise<GenerateResult>((resolve, reject) => {
    settle = { resolve, reject };
  });
  // Whoever reads only the chunks meets the error there.
  result.catch(() => undefined);
  async function* read(): AsyncGenerator<StreamChunk, GenerateResult, undefined> {
    let ended = false;
    try {
      for (;;) {
        const next = await running.next();
        if (next.done) {
          ended = true;
          settle?.resolve(next.value);
          return next.value;
        }
        yield next.value;
      }
    } catch (error) {
      ended = true;
      settle?.reject(error);
      throw error;
    } finally {
      if (!ended) {
        await running.return(undefined as never);
        settle?.reject(new DOMException("the stream was left before its end", "AbortError"));
      }
    }
  }
  const chunks = read();
  return { result, [Symbol.asyncIterator]: () => chunks };
}

function finish(
  request: CompiledRequest,
  done: NativeDoneEvent,
  events: readonly NativeTokensEvent[],
  text: string,
): GenerateResult {
  const logprobs = logprobsOf(events, request);
  const { captures } = done;
  return {
    text,
    tokens: done.tokens,
    promptTokens: request.prompt.tokens,
    finishReason: finishReason(done),
    stoppedBy: stoppedBy(done, request),
    ...(logprobs ? { logprobs } : {}),
    ...(request.native.captures.length > 0 && !request.native.stream
      ? { captures: captureResults(captures) }
      : {}),
    ...probeResults(request.probes, done),
    ...appliedSteering(request.program, done),
    seed: request.native.sampling.seed,
    ...usageAndTiming(done),
  };
}

/** Columns of the event's [tokens, probes] readings, by name. */
function streamedProbes(
  event: NativeTokensEvent,
  request: CompiledRequest,
): { probes?: Record<string, Float32Array> } {
  const { probes: names } = request;
  if (names.length === 0) return {};
  const columns = names.map((name, i): [string, Float32Array] => [
    name,
    event.probes.filter((_, k) => k % names.length === i),
  ]);
  return { probes: Object.fromEntries(columns) };
}

function finishReason(done: NativeDoneEvent): FinishReason {
  if (done.finish === "stop-id" || done.finish === "stop-text") return "stop";
  return done.finish === "context" ? "context" : "length";
}

function stoppedBy(done: NativeDoneEvent, request: CompiledRequest): string | number | null {
  if (done.finish === "stop-text") return request.stop[done.stopIndex] ?? null;
  return done.finish === "stop-id" ? (done.tokens.at(-1) ?? null) : null;
}

/** A stop id is part of the tokens, not of the text (it need not be a special token). */
function withoutStopId(tokens: Int32Array, request: CompiledRequest): Int32Array {
  const last = tokens.at(-1);
  return last !== undefined && request.native.stopIds.includes(last) ? tokens.subarray(0, -1) : tokens;
}

function logprobsOf(
  events: readonly NativeTokensEvent[],
  request: CompiledRequest,
): TokenLogprobs | undefined {
  if (request.native.logprobs < 0) return undefined;
  const values: number[] = [];
  const top: TokenLogprobs["top"] = [];
  for (const event of events) {
    values.push(...event.logprobs);
    top.push(...topLogprobs(event.topIds, event.topLogprobs, event.tokens.length));
  }
  return { tokens: Float32Array.from(values), top };
}
