// SPDX-License-Identifier: Apache-2.0
// Hidden states of many prompts as one stream: the prompts run together, their rows meet the consumer one
// chunk at a time. Whoever's turn it is not yet rests in the engine with at most its share of the buffer.

import type { Capture, ForwardResult, GenerateResult } from "./results.ts";

/** The answer to one prompt: of generate() with maxTokens, else of forward(); without captures. */
export type CaptureEnd = GenerateResult | ForwardResult;

/** Rows of one prompt, or, as its last chunk, its answer and no rows. */
export interface CaptureChunk {
  /** Index of the prompt. */
  prompt: number;
  /** By canonical site name; each site has the same positions. */
  captures: Record<string, Capture>;
  /** On the last chunk of a prompt. */
  result?: CaptureEnd;
}

interface Offer {
  chunk: CaptureChunk;
  taken: () => void;
}

export interface CaptureJob {
  prompts: number;
  /** Prompts that run at once. */
  together: number;
  /** "prompts": all of one prompt, then the next. "made": as the rows are made. */
  order: "prompts" | "made";
  signal: AbortSignal | undefined;
  start: (
    prompt: number,
    onRows: (rows: Record<string, Capture>) => Promise<void>,
    signal: AbortSignal,
  ) => Promise<CaptureEnd>;
}

/** Leaving the loop ends what runs. */
export async function* streamCaptures(job: CaptureJob): AsyncGenerator<CaptureChunk, void, undefined> {
  const left = new AbortController();
  const signal = job.signal ? AbortSignal.any([job.signal, left.signal]) : left.signal;
  const offers: Offer[] = [];
  const running = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  let wake: (() => void) | undefined;
  const notify = () => {
    wake?.();
    wake = undefined;
  };
  const offer = (chunk: CaptureChunk) =>
    new Promise<void>((taken) => {
      // Nobody is there any more to take it.
      if (left.signal.aborted) return taken();
      offers.push({ chunk, taken });
      notify();
    });
  const launch = async (prompt: number) => {
    try {
      const result = await job.start(prompt, (captures) => offer({ prompt, captures }), signal);
      await offer({ prompt, captures: {}, result });
    } catch (error) {
      failure ??= { error };
      notify();
    }
  };
  let [started, ended] = [0, 0];
  try {
    while (ended < job.prompts) {
      while (started < job.prompts && started - ended < job.together) {
        const one = launch(started++).finally(() => running.delete(one));
        running.add(one);
      }
      const index = offers.findIndex(({ chunk }) => job.order === "made" || chunk.prompt === ended);
      if (index >= 0) {
        const [next] = offers.splice(index, 1);
        if (next!.chunk.result) ended++;
        yield next!.chunk;
        // Asked for the next one: this one has been dealt with.
        next!.taken();
        continue;
      }
      job.signal?.throwIfAborted();
      if (failure) throw failure.error;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    left.abort(new DOMException("the stream of captures was left before its end", "AbortError"));
    for (const { taken } of offers) taken();
    await Promise.all(running);
  }
}
