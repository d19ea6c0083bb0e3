// SPDX-License-Identifier: Apache-2.0
// Runs a converted archive through the addon alone, for tests of the conversion.

import { expect } from "vitest";
import type { NativeDoneEvent, NativeDtype, NativeModel, NativeQuantize } from "../../src/native/contract.ts";
import { loadAddon } from "../../src/native/loader.ts";

export function load(
  path: string,
  form: { dtype?: NativeDtype | "auto"; quantize?: NativeQuantize } = {},
): Promise<NativeModel> {
  return loadAddon().load({
    path,
    device: "cpu",
    dtype: form.dtype ?? "auto",
    quantize: form.quantize ?? "none",
    threads: 2,
    layersPath: null,
    tokenBudget: 64,
    maxBatch: 2,
    cudaGraphs: "off",
    flashAttention: "off",
    reproducible: false,
    cacheBytes: 1 << 26,
  });
}

export function run(model: NativeModel, tokens: Int32Array, sites: string[]): Promise<NativeDoneEvent> {
  const { promise, resolve, reject } = deferred<NativeDoneEvent>();
  model.submit(
    {
      tokens,
      embeddingRows: null,
      embeddings: null,
      maxTokens: 0,
      minTokens: 0,
      stopIds: new Int32Array(0),
      stopBytes: [],
      sampling: {
        temperature: 0,
        topK: 0,
        topP: 1,
        minP: 0,
        repetitionPenalty: 1,
        presencePenalty: 0,
        frequencyPenalty: 0,
        seed: 0,
        biasIds: new Int32Array(0),
        biasValues: new Float32Array(0),
      },
      logprobs: -1,
      promptLogprobs: false,
      logits: "all",
      program: [],
      captures: sites.map((site) => ({ site, phase: "all", positions: null, pool: "none", reduce: null })),
      probes: [],
    },
    (event) => {
      if (event.type === "done") resolve(event);
      if (event.type === "error") reject(new Error(`${event.code}: ${event.message}`));
    },
  );
  return promise;
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

export function worst(got: Float32Array, expected: Float32Array): { value: number; index: number } {
  expect(got.length).toBe(expected.length);
  let value = 0;
  let index = -1;
  got.forEach((x, i) => {
    const difference = Math.abs(x - expected[i]!);
    if (!(difference <= value)) [value, index] = [difference, i];
  });
  return { value, index };
}
