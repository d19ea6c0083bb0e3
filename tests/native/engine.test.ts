// SPDX-License-Identifier: Apache-2.0
// The engine's promises, each against a request that ran alone with nothing cached: neighbours, chunks,
// cached prefixes, order of arrival and aborts change no bit of an answer.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";
import { BLOCK_BYTES, direction, PROGRAMS, signature, tokensOf, touched } from "./engine-world.ts";

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 48, maxBatch: 8 });
});
afterAll(() => model.dispose());

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
      // All but the row that chooses the first token.
      expect(result.usage.cachedTokens).toBe(199);
      // Which rows a gate was open for is not kept with the cache.
      if (!PROGRAMS[i]!.some((o) => o.gate)) expect(touched(result)).toEqual(touched(cold[i]!));
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
      0, 149, 149, 149, 149, 149,
    ]);
  });

  test("defect 2: never serves another program's keys and values", async () => {
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

describe("each pair is equal", () => {
  const options = (i: number) => ({
    steering: PROGRAMS[i % PROGRAMS.length]!,
    maxTokens: 10,
    temperature: i % 2 ? 0.8 : 0,
    seed: i,
    logprobs: 0,
    ignoreEos: true,
    capture: { sites: ["layers.2"] },
  });
  const prompt = (i: number) => tokensOf(30 + 23 * i, 40 + i);
  const cold = (i: number, on = model) =>
    on.generate(prompt(i), { ...options(i), reusePrefix: false }).then(signature);

  test("batched and alone, with interleaved programs of repeated and non-commuting operations", async () => {
    const together = await Promise.all(PROGRAMS.map((_, i) => cold(i)));
    for (const [i, answer] of together.entries()) expect(answer).toEqual(await cold(i));
  });

  test("chunked and whole", async () => {
    const whole = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 1024 });
    const crumbs = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 5 });
    try {
      for (const i of PROGRAMS.keys())
        expect(await cold(i, crumbs), `program ${i}`).toEqual(await cold(i, whole));
    } finally {
      await Promise.all([whole.dispose(), crumbs.dispose()]);
    }
  });

  test("streamed and whole", async () => {
    for (const i of PROGRAMS.keys()) {
      const stream = model.stream(prompt(i), { ...options(i), reusePrefix: false });
      for await (const _ of stream);
      expect(signature(await stream.result)).toEqual(await cold(i));
    }
  });

  test("beside neighbours that are aborted, and beside none", async () => {
    const control = new AbortController();
    const neighbours = Array.from({ length: 4 }, (_, i) =>
      model
        .generate(prompt(i), { ...options(i + 2), maxTokens: 100, signal: control.signal })
        .catch(() => "gone"),
    );
    const beside = PROGRAMS.map((_, i) => cold(i));
    setTimeout(() => control.abort("enough"), 4);
    const answers = await Promise.all(beside);
    await Promise.all(neighbours);
    for (const [i, answer] of answers.entries()) expect(answer).toEqual(await cold(i));
  });

  test("one thread and two", async () => {
    const one = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 48, threads: 1 });
    try {
      expect(model.info.reproducible && one.info.reproducible).toBe(true);
      for (const i of PROGRAMS.keys()) expect(await cold(i, one)).toEqual(await cold(i));
    } finally {
      await one.dispose();
    }
  });
});

describe("a prompt asked again", () => {
  test("64 times at once is computed once, whatever does not fill a block included", async () => {
    const wide = await SteerModel.load("stories260k", { device: "cpu", maxBatch: 64 });
    try {
      const prompt = tokensOf(31, 500);
      const sample = (seed: number, reusePrefix: boolean) =>
        wide.generate(prompt, {
          maxTokens: 5,
          temperature: 1,
          seed,
          ignoreEos: true,
          logprobs: 0,
          reusePrefix,
        });
      const answers = await Promise.all(Array.from({ length: 64 }, (_, seed) => sample(seed, true)));
      // 31 rows, then the row that chooses the first token of each of the others.
      expect(wide.stats().promptTokens).toBe(31 + 63);
      expect(wide.stats().cachedTokens).toBe(63 * 30);
      for (const seed of [0, 1, 33, 63])
        expect(signature(answers[seed]!)).toEqual(signature(await sample(seed, false)));
      // They wrote on, each in a copy of its own.
      expect(new Set(answers.map((r) => r.tokens.join())).size).toBeGreaterThan(20);
    } finally {
      await wide.dispose();
    }
  });

  test("with a program on generation alone, or none, shares; one that acts on its last rows does not", async () => {
    const prompt = tokensOf(45, 600);
    const ask = (steering: SteeringProgram) =>
      model.generate(prompt, { steering, maxTokens: 4, ignoreEos: true, logprobs: 0 });
    const cached = async (steering: SteeringProgram) => (await ask(steering)).usage.cachedTokens;
    await ask([]);
    expect(await cached([])).toBe(44);
    expect(await cached([{ layer: 2, vector: direction(1), scope: { phase: "generation" } }])).toBe(44);
    // Only row 44 chooses a token; the program acts on it, not on what is cached.
    expect(await cached([{ layer: 2, vector: direction(1), scope: { positions: [44] } }])).toBe(44);
    expect(await cached([{ layer: 2, vector: direction(1), scope: { positions: [43] } }])).toBe(32);
    expect(await cached([{ layer: 2, vector: direction(1), scope: { positions: [31] } }])).toBe(0);
    expect(await cached([{ layer: 2, vector: direction(2), scope: { positions: [43] } }])).toBe(32);
    const twice: SteeringProgram = [
      { layer: 2, vector: direction(3) },
      { layer: 2, op: "ablate", vector: direction(4) },
    ];
    expect(await cached(twice)).toBe(0);
    expect(await cached(twice)).toBe(44);
    expect(await cached([twice[1]!, twice[0]!])).toBe(0);
    expect(await cached([...twice, twice[0]!])).toBe(0);
  });
});

describe("room", () => {
  test("a request that can never fit says what it needs and what there is", async () => {
    const small = await SteerModel.load("stories260k", { device: "cpu", cacheBytes: 4 * BLOCK_BYTES });
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
    const small = await SteerModel.load("stories260k", { device: "cpu", cacheBytes: 8 * BLOCK_BYTES });
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
