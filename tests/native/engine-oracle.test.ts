// SPDX-License-Identifier: Apache-2.0
// Thousands of random requests against two oracles: the same request alone on an engine that never
// batches, chunks or reuses, and a naive loop that runs the whole text again for every token. The crowd
// runs in a small cache with a small budget, so that requests queue, blocks are evicted and given up.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { GenerateResult } from "../../src/model/results.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { BLOCK_BYTES, direction, PROGRAMS, random, signature, tokensOf, touched } from "./engine-world.ts";

let oracle: SteerModel;
beforeAll(async () => {
  oracle = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 1024, maxBatch: 1 });
});
afterAll(() => oracle.dispose());

function arrivals(count: number, seed: number) {
  const next = random(seed);
  const pick = (n: number) => Math.floor(next() * n);
  return Array.from({ length: count }, (_, i) => ({
    // Few beginnings, many lengths: prefixes are shared, at block borders and between them.
    prompt: tokensOf(1 + pick(next() < 0.1 ? 260 : 70), pick(5)),
    options: {
      steering: PROGRAMS[pick(PROGRAMS.length)]!,
      maxTokens: 1 + pick(next() < 0.1 ? 60 : 14),
      temperature: next() < 0.5 ? 0 : 0.8,
      repetitionPenalty: next() < 0.2 ? 1.3 : 1,
      seed: i,
      logprobs: 0,
      ignoreEos: true,
      ...(next() < 0.15 ? { capture: { sites: ["layers.2", "layers.3.mlp"] } } : {}),
      ...(next() < 0.1 ? { probes: [{ name: "p", layer: 3, direction: direction(30) }] } : {}),
    },
    streamed: next() < 0.3,
    abort: next() < 0.15 ? pick(40) : undefined,
    wait: next() < 0.4 ? pick(3) : 0,
  }));
}
type Arrival = ReturnType<typeof arrivals>[number];

const run = (model: SteerModel, { prompt, options, streamed }: Arrival, signal?: AbortSignal) => {
  const all = { ...options, ...(signal ? { signal } : {}) };
  return streamed ? readWhole(model, prompt, all) : model.generate(prompt, all);
};

/** A stream read to its end, its chunks compared with its result. */
async function readWhole(model: SteerModel, prompt: Int32Array, options: object): Promise<GenerateResult> {
  const stream = model.stream(prompt, options);
  const tokens: number[] = [];
  const pieces: string[] = [];
  for await (const chunk of stream) {
    tokens.push(...chunk.tokens);
    pieces.push(chunk.text);
  }
  const result = await stream.result;
  expect(tokens).toEqual(Array.from(result.tokens));
  expect(pieces.join("")).toBe(result.text);
  return result;
}

async function crowd(model: SteerModel, jobs: readonly Arrival[], atOnce: number) {
  const running = new Set<Promise<unknown>>();
  const answers: Promise<GenerateResult | "aborted">[] = [];
  for (const job of jobs) {
    const control = new AbortController();
    const answer = run(model, job, control.signal).catch((reason) => {
      if (reason !== "enough") throw reason;
      return "aborted" as const;
    });
    answers.push(answer);
    if (job.abort !== undefined) setTimeout(() => control.abort("enough"), job.abort);
    const settled = answer.finally(() => running.delete(settled));
    running.add(settled);
    while (running.size >= atOnce) await Promise.race(running);
    if (job.wait > 0) await new Promise((resolve) => setTimeout(resolve, job.wait));
  }
  return Promise.all(answers);
}

describe("defect 3, defect 5: a random crowd", () => {
  // Budget, places, blocks: chunks of a few rows, a cache that is always full, and a roomy one.
  test.each([
    { seed: 1, count: 800, tokenBudget: 24, maxBatch: 8, blocks: 14 },
    { seed: 2, count: 800, tokenBudget: 48, maxBatch: 16, blocks: 24 },
    { seed: 3, count: 800, tokenBudget: 200, maxBatch: 32, blocks: 200 },
  ])("answers as each request alone: %o", { timeout: 120_000 }, async ({ seed, count, blocks, ...sizes }) => {
    const model = await SteerModel.load("stories260k", {
      device: "cpu",
      cacheBytes: blocks * BLOCK_BYTES,
      ...sizes,
    });
    try {
      const jobs = arrivals(count, seed);
      const answers = await crowd(model, jobs, 40);
      let compared = 0;
      for (const [i, job] of jobs.entries()) {
        const answer = answers[i]!;
        if (answer === "aborted") continue;
        const alone = await oracle.generate(job.prompt, { ...job.options, reusePrefix: false });
        expect(signature(answer), `request ${i}`).toEqual(signature(alone));
        // A gate's rows are not told of a cached prefix.
        if (!job.options.steering.some((o) => o.gate))
          expect(touched(answer), `request ${i}`).toEqual(touched(alone));
        compared++;
      }
      await expect.poll(() => model.stats().running + model.stats().waiting).toBe(0);
      const stats = model.stats();
      console.log(
        `seed ${seed}: ${compared} of ${count} bit-identical, the rest aborted; ${stats.steps} steps, ` +
          `${stats.cachedTokens} cached tokens, ${stats.cacheEvictions} evictions, ${stats.preemptions} preemptions`,
      );
      expect(compared).toBeGreaterThan(count * 0.8);
      expect(stats.cachedTokens).toBeGreaterThan(500);
      if (blocks < 30) expect(stats.cacheEvictions).toBeGreaterThan(100);
      if (seed === 1) expect(stats.preemptions).toBeGreaterThan(0);
      expect(stats).toMatchObject({ cacheBlocksUsed: 0, captureBytes: 0 });
      expect(stats.largestStepRows).toBeLessThanOrEqual(sizes.tokenBudget);
    } finally {
      await model.dispose();
    }
  });
});

describe("a naive loop", () => {
  test("that runs the whole text again for every token chooses the same tokens", {
    timeout: 120_000,
  }, async () => {
    const model = await SteerModel.load("stories260k", {
      device: "cpu",
      tokenBudget: 32,
      maxBatch: 8,
      cacheBytes: 12 * BLOCK_BYTES,
    });
    try {
      // Scopes by phase and place would see the longer text as a prompt, so programs that act everywhere.
      const everywhere = [0, 1, 5, 6].map((i) => PROGRAMS[i]!);
      const jobs = arrivals(120, 9).map((job, i) => ({
        prompt: job.prompt.subarray(0, 60),
        options: { steering: everywhere[i % 4]!, maxTokens: 6, ignoreEos: true },
      }));
      const answers = await Promise.all(jobs.map(({ prompt, options }) => model.generate(prompt, options)));
      for (const [i, { prompt, options }] of jobs.entries()) {
        const tokens = Array.from(prompt);
        for (let n = 0; n < options.maxTokens; n++) {
          const { logits } = await oracle.forward(Int32Array.from(tokens), {
            steering: options.steering,
            reusePrefix: false,
          });
          let best = 0;
          for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
          tokens.push(best);
        }
        expect(Array.from(answers[i]!.tokens), `request ${i}`).toEqual(tokens.slice(prompt.length));
      }
    } finally {
      await model.dispose();
    }
  });
});
