// SPDX-License-Identifier: Apache-2.0
// The engine's promises, each against a request that ran alone with nothing cached: neighbours, chunks,
// cached prefixes, order of arrival and aborts change no bit of an answer.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";

// A linear congruential generator: the same arrivals in every run.
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const direction = (seed: number) => Float32Array.from({ length: 64 }, (_, i) => Math.sin(seed * 7 + i * 1.3));
const tokensOf = (length: number, seed: number) =>
  Int32Array.from({ length }, (_, i) => 3 + ((i * 37 + seed * 101) % 500));

// Repeated and non-commuting operations, every scope; some share sites with their neighbours.
const PROGRAMS: SteeringProgram[] = [
  [],
  [{ layer: 2, vector: direction(1) }],
  [{ layer: 2, vector: direction(1) }],
  [{ layer: 2, vector: direction(1), scope: { phase: "generation" } }],
  [{ layer: 1, vector: direction(2), scope: { positions: [[40, 60]] } }],
  [
    { layer: 3, vector: direction(3), scale: 0.5 },
    { layer: 3, op: "ablate", vector: direction(4) },
    { layer: 3, vector: direction(3), scale: 0.5 },
  ],
  [
    { layer: 3, op: "ablate", vector: direction(4) },
    { layer: 3, vector: direction(3) },
    { layer: 1, op: "cap", vector: direction(5), min: -0.1, max: 0.1, keepNorm: true },
  ],
];

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 48, maxBatch: 8 });
});
afterAll(() => model.dispose());

const signature = (result: { tokens: Int32Array; logprobs?: { tokens: Float32Array } | undefined }) => ({
  tokens: Array.from(result.tokens),
  // Bits, not values: equality must be exact.
  logprobs: Array.from(new Uint32Array(Float32Array.from(result.logprobs?.tokens ?? []).buffer)),
});

describe("a prefix from the cache", () => {
  test("gives the bits of a cold run, for every program, and is counted as reused", async () => {
    const prompt = tokensOf(200, 1);
    const options = (steering: SteeringProgram, reusePrefix: boolean) =>
      ({ steering, reusePrefix, maxTokens: 12, temperature: 0, logprobs: 0, ignoreEos: true }) as const;
    const cold = await Promise.all(PROGRAMS.map((p) => model.generate(prompt, options(p, false))));
    await Promise.all(PROGRAMS.map((p) => model.generate(prompt, options(p, true))));
    const warm = await Promise.all(PROGRAMS.map((p) => model.generate(prompt, options(p, true))));
    for (const [i, result] of warm.entries()) {
      expect(signature(result), `program ${i}`).toEqual(signature(cold[i]!));
      expect(result.usage.cachedTokens).toBe(192);
      for (const [o, applied] of result.steering.entries()) {
        expect(applied.rows + applied.reusedRows).toBe(cold[i]!.steering[o]!.rows);
      }
    }
  });

  test("is computed once by equal requests that arrive together", async () => {
    const prompt = tokensOf(150, 77);
    const results = await Promise.all(
      Array.from({ length: 6 }, () =>
        model.generate(prompt, { steering: PROGRAMS[1]!, maxTokens: 2, ignoreEos: true }),
      ),
    );
    expect(results.map((r) => r.usage.cachedTokens).sort((a, b) => a - b)).toEqual([
      0, 128, 128, 128, 128, 128,
    ]);
  });

  test("never serves another program's keys and values", async () => {
    const prompt = tokensOf(96, 5);
    await model.generate(prompt, { maxTokens: 1 });
    const steered = await model.generate(prompt, { steering: PROGRAMS[1]!, maxTokens: 1 });
    expect(steered.usage.cachedTokens).toBe(0);
  });

  test("is not taken where rows are captured", async () => {
    const prompt = tokensOf(96, 6);
    await model.generate(prompt, { maxTokens: 1 });
    const read = await model.generate(prompt, { maxTokens: 1, capture: { sites: ["layers.2"] } });
    expect(read.captures["layers.2"]!.shape[0]).toBe(96);
  });
});

describe("a random crowd", () => {
  test("of requests, lengths, programs and aborts answers as each would alone", {
    timeout: 240_000,
  }, async () => {
    const next = random(42);
    const jobs = Array.from({ length: 240 }, (_, i) => ({
      prompt: tokensOf(1 + Math.floor(next() * 130), Math.floor(next() * 6)),
      steering: PROGRAMS[Math.floor(next() * PROGRAMS.length)]!,
      maxTokens: 1 + Math.floor(next() * 16),
      temperature: next() < 0.5 ? 0 : 0.8,
      seed: i,
      abort: next() < 0.2,
      wait: next() < 0.3,
    }));
    const options = (job: (typeof jobs)[number]) => ({
      steering: job.steering,
      maxTokens: job.maxTokens,
      temperature: job.temperature,
      seed: job.seed,
      logprobs: 0,
      ignoreEos: true,
    });
    const crowd: Promise<ReturnType<typeof signature> | "aborted">[] = [];
    for (const job of jobs) {
      const control = new AbortController();
      crowd.push(
        model
          .generate(job.prompt, { ...options(job), signal: control.signal })
          .then(signature)
          .catch((reason) => {
            expect(reason).toBe("enough");
            return "aborted" as const;
          }),
      );
      if (job.abort) setTimeout(() => control.abort("enough"), next() * 20);
      if (job.wait) await new Promise((resolve) => setTimeout(resolve, next() * 4));
    }
    const answers = await Promise.all(crowd);
    let compared = 0;
    for (const [i, job] of jobs.entries()) {
      if (answers[i] === "aborted") continue;
      const alone = signature(await model.generate(job.prompt, { ...options(job), reusePrefix: false }));
      expect(answers[i], `request ${i}`).toEqual(alone);
      compared++;
    }
    console.log(
      `crowd: ${compared} answers bit-identical to their own run, ${jobs.length - compared} aborted`,
    );
    expect(compared).toBeGreaterThan(150);
    // The last "done" reaches JavaScript a moment before the engine counts its blocks as free again.
    await expect.poll(() => model.stats().cacheBlocksUsed).toBe(0);
  });
});

describe("order and room", () => {
  test("a long prompt does not hold up those that generate, and nobody starves", async () => {
    const long = model.generate(tokensOf(400, 9), { maxTokens: 1, reusePrefix: false });
    const short = await Promise.all(
      Array.from({ length: 12 }, (_, i) =>
        model.generate(tokensOf(3, i + 20), { maxTokens: 4, ignoreEos: true }),
      ),
    );
    expect(short.every((r) => r.tokens.length === 4)).toBe(true);
    expect((await long).tokens).toHaveLength(1);
  });

  test("a request that can never fit says what it needs and what there is", async () => {
    const small = await SteerModel.load("stories260k", { device: "cpu", cacheBytes: 4 * 40960 });
    try {
      await expect(small.generate(tokensOf(300, 1), { maxTokens: 1 })).rejects.toMatchObject({
        code: "ERR_CACHE_MEMORY",
      });
      const fits = await small.generate(tokensOf(20, 1), { maxTokens: 4, ignoreEos: true });
      expect(fits.tokens).toHaveLength(4);
    } finally {
      await small.dispose();
    }
  });

  test("kept prefixes give way when room is needed", async () => {
    const small = await SteerModel.load("stories260k", { device: "cpu", cacheBytes: 8 * 40960 });
    try {
      for (let i = 0; i < 30; i++) {
        const { tokens } = await small.generate(tokensOf(100, i), { maxTokens: 8, ignoreEos: true });
        expect(tokens).toHaveLength(8);
      }
    } finally {
      await small.dispose();
    }
  });
});
