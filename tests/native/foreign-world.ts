// SPDX-License-Identifier: Apache-2.0
// What the tests of strangers' archives share: loading with every default written out, requests as
// promises, operations, comparison with a figure.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type {
  NativeDoneEvent,
  NativeLoadOptions,
  NativeModel,
  NativeOperation,
  NativeRequest,
} from "../../src/native/contract.ts";
import { loadAddon } from "../../src/native/loader.ts";

export function fixture(name: string): string {
  return fileURLToPath(new URL(`../golden/foreign/${name}`, import.meta.url));
}

export function shared(name: string): string {
  return fileURLToPath(new URL(`../../../shared/${name}`, import.meta.url));
}

export function open(path: string, options: Partial<NativeLoadOptions> = {}): Promise<NativeModel> {
  return loadAddon().load({
    path,
    device: "cpu",
    dtype: "auto",
    quantize: "none",
    threads: 1,
    layersPath: null,
    tokenBudget: 256,
    maxBatch: 16,
    cudaGraphs: "off",
    flashAttention: "off",
    reproducible: false,
    cacheBytes: 1 << 24,
    ...options,
  });
}

export function run(model: NativeModel, request: Partial<NativeRequest>): Promise<NativeDoneEvent> {
  return new Promise((resolve, reject) => {
    model.submit(fullRequest(request), (event) => {
      if (event.type === "done") resolve(event);
      if (event.type === "error") reject(Object.assign(new Error(event.message), { code: event.code }));
    });
  });
}

export function fullRequest(request: Partial<NativeRequest>): NativeRequest {
  return {
    tokens: Int32Array.of(1),
    embeddingRows: null,
    embeddings: null,
    maxTokens: 0,
    minTokens: 0,
    stopIds: new Int32Array(),
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
      biasIds: new Int32Array(),
      biasValues: new Float32Array(),
    },
    logprobs: -1,
    promptLogprobs: false,
    reuse: false,
    logits: "none",
    program: [],
    captures: [],
    probes: [],
    ...request,
  };
}

export function operation(
  site: string,
  vector: Float32Array,
  changes: Partial<NativeOperation>,
): NativeOperation {
  return {
    site,
    op: "add",
    vector,
    second: null,
    scale: 1,
    min: Number.NEGATIVE_INFINITY,
    max: Number.POSITIVE_INFINITY,
    mean: 0,
    amount: 1,
    keepNorm: false,
    phase: "all",
    positions: null,
    afterGenerated: 0,
    firstGenerated: 2147483647,
    tokenIds: null,
    schedule: null,
    gate: null,
    ...changes,
  };
}

export function capture(site: string, phase: "all" | "prompt" | "generation" = "all") {
  return { site, phase, positions: null, pool: "none" as const, reduce: null };
}

export interface Golden {
  ids: number[];
  vector: number[];
  layer: number;
  width: number;
  vocab: number;
  cases: Record<string, { logits: number[]; greedy: number[]; margin: number; hidden?: number[] }>;
}

export function golden(name: string): Golden {
  return JSON.parse(readFileSync(fixture(`${name}.json`), "utf8")) as Golden;
}

/** The cases of make_foreign_fixtures.py as programs. */
export function program(name: string, reference: Golden): NativeOperation[] {
  const vector = Float32Array.from(reference.vector);
  const site = `layers.${reference.layer}`;
  if (name === "add") return [operation(site, vector, { scale: 2 })];
  if (name === "cap") return [operation(site, vector, { op: "cap", min: -0.2, max: 0.3 })];
  if (name === "ablate") return [operation(site, vector, { op: "ablate", scale: 0 })];
  return [];
}

export function worst(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < got.length; i++) {
    const off = Math.abs((got[i] as number) - (expected[i] as number));
    if (!(off <= most)) most = off;
  }
  return most;
}

export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    dot += (a[i] as number) * (b[i] as number);
    aa += (a[i] as number) ** 2;
    bb += (b[i] as number) ** 2;
  }
  return dot / Math.sqrt(aa * bb);
}

/** Reads a folder's presence once, for tests that are skipped without it. */
export function has(path: string): boolean {
  return existsSync(path);
}
