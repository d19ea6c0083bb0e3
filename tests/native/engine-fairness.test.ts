// SPDX-License-Identifier: Apache-2.0
// Nobody starves, told in steps of the engine, which do not depend on the machine's speed: prompts among
// prompts, those that generate beside long prompts, small requests behind a huge one, a full cache.
import { afterEach, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { BLOCK_BYTES, direction, PROGRAMS, signature, tokensOf, touched } from "./engine-world.ts";

const BUDGET = 48;
let model: SteerModel;
const load = async (options: object) => {
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: BUDGET, ...options });
  return model;
};
afterEach(() => model.dispose());

const fresh = { ignoreEos: true, reusePrefix: false } as const;

describe("prompts share the budget", () => {
  test("a long prompt among a stream of short ones has half of it, the short ones do not wait for the long", async () => {
    await load({ maxBatch: 8 });
    let over = false;
    const long = model.generate(tokensOf(480, 1), { ...fresh, maxTokens: 1 }).then((result) => {
      over = true;
      return result;
    });
    const shorts: Awaited<typeof long>[] = [];
    // Four clients, each with the next request when the last one is answered.
    const client = async (seed: number) => {
      for (let i = 0; !over; i++)
        shorts.push(await model.generate(tokensOf(5, seed + 4 * i), { ...fresh, maxTokens: 4 }));
    };
    await Promise.all([0, 1, 2, 3].map(client));
    const { promptSteps, queuedSteps } = (await long).timing;
    // At most four rows of a step are decodes, half of the other 44 are the long prompt's.
    expect(queuedSteps).toBe(0);
    expect(promptSteps).toBeLessThanOrEqual(Math.ceil(480 / 22));
    const worst = Math.max(...shorts.map((r) => r.timing.queuedSteps + r.timing.promptSteps));
    console.log(`long: ${promptSteps} steps; ${shorts.length} short ones, first token within ${worst} steps`);
    expect(worst).toBeLessThanOrEqual(2);
    // One row in every step from the first token on: never held up, by more than the budget of a step.
    for (const { timing } of shorts) expect(timing.generateSteps).toBe(3);
    expect(model.stats().largestStepRows).toBeLessThanOrEqual(BUDGET);
  });

  test("of many long prompts each is done when those before it are, and a late short one at once", async () => {
    await load({ maxBatch: 16 });
    const longs = Array.from({ length: 10 }, (_, i) =>
      model.generate(tokensOf(400, i), { ...fresh, maxTokens: 8 }),
    );
    const short = model.generate(tokensOf(6, 50), { ...fresh, maxTokens: 8 });
    const steps = (await Promise.all(longs)).map((r) => r.timing.queuedSteps + r.timing.promptSteps);
    console.log(`ten prompts of 400 rows, budget ${BUDGET}: first tokens after ${steps.join(", ")} steps`);
    // The rows before it, over what decodes (at most ten) leave.
    for (const [i, taken] of steps.entries())
      expect(taken).toBeLessThanOrEqual(Math.ceil((400 * (i + 1) + 6) / (BUDGET - 10)) + 2);
    const { queuedSteps, promptSteps } = (await short).timing;
    expect(queuedSteps + promptSteps).toBeLessThanOrEqual(2);
  });

  test("more requests than places: each starts within what those before it need", async () => {
    await load({ maxBatch: 4 });
    const answers = await Promise.all(
      Array.from({ length: 64 }, (_, i) => model.generate(tokensOf(20, i), { ...fresh, maxTokens: 6 })),
    );
    // Four places of at most 2 + 5 steps each.
    for (const [i, { timing }] of answers.entries())
      expect(timing.queuedSteps).toBeLessThanOrEqual((Math.floor(i / 4) + 1) * 7);
  });
});

describe("room in the cache", () => {
  test("is taken as answers grow: many that may become long but end early run together", async () => {
    await load({ maxBatch: 8, cacheBytes: 9 * BLOCK_BYTES });
    const alone = await model.generate(tokensOf(5, 3), { ...fresh, maxTokens: 6 });
    // Each may need 7 blocks of the 9.
    const answers = await Promise.all(
      Array.from({ length: 8 }, () =>
        model.generate(tokensOf(5, 3), { ...fresh, maxTokens: 200, stopIds: [alone.tokens[5]!] }),
      ),
    );
    for (const { finishReason, timing } of answers) {
      expect(finishReason).toBe("stop");
      expect(timing).toMatchObject({ preemptions: 0 });
      // As many as can grow by a block run; nobody waits for a whole answer of 200 tokens.
      expect(timing.queuedSteps).toBeLessThanOrEqual(16);
    }
  });

  test("running out gives the same bits, rows and readings counted once, and the oldest gives nothing up", async () => {
    await load({ maxBatch: 8, cacheBytes: 10 * BLOCK_BYTES });
    const options = (i: number, reusePrefix: boolean) =>
      ({
        steering: PROGRAMS[i % PROGRAMS.length]!,
        maxTokens: 120,
        temperature: i % 2 ? 0.8 : 0,
        seed: i,
        logprobs: 0,
        ignoreEos: true,
        reusePrefix,
        capture: { sites: ["layers.1", "layers.3"], ...(i % 3 === 0 ? { pool: "mean" as const } : {}) },
        probes: [{ name: "p", layer: 2, direction: direction(20) }],
      }) as const;
    const prompt = (i: number) => tokensOf(10 + 17 * (i % 5), i);
    for (const reuse of [false, true]) {
      const before = model.stats();
      const crowd = await Promise.all(
        Array.from({ length: 12 }, (_, i) => model.generate(prompt(i), options(i, reuse))),
      );
      const given = crowd.map((r) => r.timing.preemptions);
      const after = model.stats();
      console.log(
        `reuse ${reuse}: blocks given up ${given.join(" ")} times; ${after.recomputedTokens - before.recomputedTokens} rows again`,
      );
      expect(given[0]).toBe(0);
      expect(given.reduce((a, b) => a + b)).toBeGreaterThan(3);
      expect(after.preemptions - before.preemptions).toBe(given.reduce((a, b) => a + b));
      expect(after).toMatchObject({ running: 0, waiting: 0, cacheBlocksUsed: 0, captureBytes: 0 });
      const rows = crowd.reduce((sum, r) => sum + r.usage.promptTokens - r.usage.cachedTokens, 0);
      expect(after.promptTokens - before.promptTokens).toBe(rows);
      for (const [i, result] of crowd.entries()) {
        const alone = await model.generate(prompt(i), options(i, false));
        expect(signature(result), `request ${i}`).toEqual(signature(alone));
        expect(touched(result)).toEqual(touched(alone));
        expect(result.steering.map((o) => o.rows)).toEqual(alone.steering.map((o) => o.rows));
      }
    }
  });

  test("one huge request neither blocks small ones behind it nor waits for them", async () => {
    await load({ maxBatch: 8, cacheBytes: 16 * BLOCK_BYTES });
    // Holds 4 of 16 blocks for about 90 steps; the huge one needs 14.
    const first = model.generate(tokensOf(40, 1), { ...fresh, maxTokens: 80 });
    const huge = model.generate(tokensOf(440, 2), { ...fresh, maxTokens: 4 });
    let over = false;
    void huge.then(() => {
      over = true;
    });
    const smalls: Awaited<typeof huge>[] = [];
    const client = async (seed: number) => {
      for (let i = 0; !over; i++)
        smalls.push(await model.generate(tokensOf(10, seed + 3 * i), { ...fresh, maxTokens: 12 }));
    };
    await Promise.all([10, 11, 12].map(client));
    const end = (await first).timing;
    const { queuedSteps } = (await huge).timing;
    const overtook = smalls.filter((r) => r.timing.queuedSteps <= 1).length;
    console.log(
      `huge: started after ${queuedSteps} steps; the one before it took ${end.promptSteps + end.generateSteps}; ${overtook} of ${smalls.length} small ones started at once`,
    );
    // It starts when the older one's room is free, whatever younger ones hold by then.
    expect(queuedSteps).toBeGreaterThan(20);
    expect(queuedSteps).toBeLessThanOrEqual(end.promptSteps + end.generateSteps + 1);
    expect(overtook).toBeGreaterThan(5);
    expect((await huge).timing.preemptions).toBe(0);
  });

  test("is free at the step after an abort", async () => {
    await load({ maxBatch: 8, cacheBytes: 16 * BLOCK_BYTES });
    const control = new AbortController();
    const holds = model.generate(tokensOf(200, 1), { ...fresh, maxTokens: 300, signal: control.signal });
    await expect.poll(() => model.stats().generatedTokens).toBeGreaterThan(3);
    const needs = model.generate(tokensOf(480, 2), { ...fresh, maxTokens: 1 });
    await expect.poll(() => model.stats().waiting).toBe(1);
    const submitted = model.stats().steps;
    control.abort("enough");
    await expect(holds).rejects.toBe("enough");
    const { timing } = await needs;
    // It had been queued since before `submitted` was read, at most the steps of one poll.
    expect(model.stats()).toMatchObject({ running: 0, waiting: 0, cacheBlocksUsed: 0 });
    expect(model.stats().steps - submitted).toBeLessThanOrEqual(timing.promptSteps + 3);
  });
});

describe("batches form by themselves", () => {
  test("a caller that does not return to the event loop does not hold its request up", async () => {
    await load({ maxBatch: 16 });
    const before = model.stats().steps;
    const answer = model.generate(tokensOf(12, 0), { ...fresh, maxTokens: 20 });
    const start = performance.now();
    // No await: what ends the hold is the engine's own limit.
    while (model.stats().steps === before && performance.now() - start < 10_000);
    expect(model.stats().steps).toBeGreaterThan(before);
    await answer;
  });

  test("a request that is aborted in the turn it was submitted in ends", async () => {
    await load({ maxBatch: 16 });
    const control = new AbortController();
    const answer = model.generate(tokensOf(12, 0), { ...fresh, maxTokens: 400, signal: control.signal });
    control.abort("enough");
    await expect(answer).rejects.toBe("enough");
    await expect.poll(() => model.stats().running + model.stats().waiting).toBe(0);
  });

  test.each([
    ["a list of prompts", (prompts: Int32Array[]) => model.generate(prompts, { ...fresh, maxTokens: 20 })],
    [
      "calls that overlap",
      (prompts: Int32Array[]) =>
        Promise.all(prompts.map((p) => model.generate(p, { ...fresh, maxTokens: 20 }))),
    ],
  ])("%s", async (_, run) => {
    await load({ maxBatch: 16 });
    const prompts = Array.from({ length: 16 }, (_, i) => tokensOf(12, i));
    const before = model.stats();
    const together = await run(prompts);
    const after = model.stats();
    // 192 prompt rows in chunks beside decodes, then 19 steps; one after the other would take 320.
    expect(after.steps - before.steps).toBeLessThanOrEqual(30);
    for (const [i, prompt] of prompts.entries()) {
      const alone = await model.generate(prompt, { ...fresh, maxTokens: 20 });
      expect(Array.from(together[i]!.tokens)).toEqual(Array.from(alone.tokens));
    }
  });
});
