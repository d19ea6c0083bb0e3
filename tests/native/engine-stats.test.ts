// SPDX-License-Identifier: Apache-2.0
// What stats() and memoryUsage() say, against what the requests themselves say.
import { afterAll, beforeAll, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { BLOCK_BYTES, tokensOf } from "./engine-world.ts";

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", {
    device: "cpu",
    tokenBudget: 64,
    cacheBytes: 20 * BLOCK_BYTES,
  });
});
afterAll(() => model.dispose());

test("a fresh model has done nothing and holds its weights", () => {
  const { weightBytes, cacheBytes, cacheBlocks, ...rest } = model.stats();
  expect(weightBytes).toBeGreaterThan(1e6);
  expect(cacheBlocks).toBe(20);
  expect(cacheBytes).toBe(20 * BLOCK_BYTES);
  for (const [name, value] of Object.entries(rest)) expect(value, name).toBe(0);
});

test("rows, steps, cache and memory add up", async () => {
  const prompt = tokensOf(100, 1);
  await model.generate(prompt, { maxTokens: 8, ignoreEos: true });
  const one = model.stats();
  // Chunks of 64 and 36 rows, then 7 rows of one.
  expect(one).toMatchObject({
    ...{ running: 0, waiting: 0, requests: 1, steps: 9, promptTokens: 100, generatedTokens: 7 },
    ...{ cachedTokens: 0, recomputedTokens: 0, preemptions: 0 },
    ...{ stepRows: 1, stepSequences: 1, largestStepRows: 64, meanStepSequences: 1 },
    // Three whole blocks and a tail of three rows were looked for.
    ...{ cacheLookups: 4, cacheHits: 0, cacheEvictions: 0, cacheBlocksUsed: 0, captureBytes: 0 },
  });
  expect(one.meanStepRows).toBeCloseTo(107 / 9, 10);
  expect(one.cacheBlocksKept).toBe(4);
  expect(one.stepSeconds).toBeGreaterThan(0);
  expect(one.promptTokensPerSecond).toBeGreaterThan(0);
  expect(one.generatedTokensPerSecond / one.promptTokensPerSecond).toBeCloseTo(7 / 100, 3);

  await model.generate(prompt, { maxTokens: 8, ignoreEos: true });
  expect(model.stats()).toMatchObject({ cacheLookups: 8, cacheHits: 4, cachedTokens: 99, promptTokens: 101 });

  for (let i = 2; i < 9; i++) await model.generate(tokensOf(100, i), { maxTokens: 1 });
  expect(model.stats().cacheEvictions).toBeGreaterThan(0);
});

test("while requests run: who runs, who waits, what captures hold", async () => {
  const many = Array.from({ length: 12 }, (_, i) =>
    model.generate(tokensOf(60, i), { maxTokens: 60, ignoreEos: true, capture: { sites: ["layers.2"] } }),
  );
  await expect.poll(() => model.stats().captureBytes, { interval: 1 }).toBeGreaterThan(60 * 64 * 4);
  const { running, waiting, cacheBlocksUsed } = model.stats();
  // 20 blocks hold nine prompts of two blocks at most; the others wait.
  expect(running + waiting).toBe(12);
  expect(running).toBeGreaterThan(0);
  expect(waiting).toBeGreaterThan(0);
  expect(cacheBlocksUsed).toBeGreaterThan(0);
  const usage = model.memoryUsage();
  expect(usage.captureBytes).toBeGreaterThan(0);
  expect(usage.cacheBytesUsed % BLOCK_BYTES).toBe(0);
  expect(usage.processBytes).toBeGreaterThan(usage.weightBytes);
  await Promise.all(many);
  // Whoever hears the last answer finds the books closed.
  expect(model.stats()).toMatchObject({ running: 0, waiting: 0, cacheBlocksUsed: 0, captureBytes: 0 });
});
