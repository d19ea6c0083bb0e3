// SPDX-License-Identifier: Apache-2.0
// A stream of captures that rests because its consumer is behind, and meanwhile gives its cache blocks up to
// others: its rows come once each, in order, and none is lost, though some were computed twice.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { BLOCK_BYTES, direction, tokensOf } from "./engine-world.ts";
import { Joined } from "./joined-rows.ts";

const SITES = ["embed", 0, 2, 4, "final"] as const;
const ROW = SITES.length * (64 * 4 + 4);
const BLOCKS = 9;
const CASES = [
  { name: "in the middle of its prompt", prompt: 130, maxTokens: 60, chunkRows: 0, bufferRows: 40 },
  { name: "while it generates", prompt: 20, maxTokens: 200, chunkRows: 0, bufferRows: 100 },
  { name: "with rows that have not been sent", prompt: 40, maxTokens: 150, chunkRows: 17, bufferRows: 60 },
];

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", {
    ...{ device: "cpu", tokenBudget: 48, maxBatch: 4, cacheBytes: BLOCKS * BLOCK_BYTES },
  });
});
afterAll(() => model.dispose());

const options = (maxTokens: number) =>
  ({
    ...{ maxTokens, temperature: 0, ignoreEos: true, reusePrefix: false },
    steering: [{ layer: 2, vector: direction(1), scale: 0.5 }],
  }) as const;

/** Needs all blocks of the cache but one at its end. */
const neighbour = (seed: number) =>
  model.generate(tokensOf(200, seed), {
    ...{ maxTokens: (BLOCKS - 1) * 32 - 200, temperature: 0, ignoreEos: true, reusePrefix: false },
  });

/** Until the one request that runs is paused: no step is taken any more. */
const atRest = async () => {
  await expect.poll(() => model.stats().running).toBe(1);
  for (let steps = -1; steps !== model.stats().steps; await sleep(20)) steps = model.stats().steps;
};

for (const { name, prompt, maxTokens, chunkRows, bufferRows } of CASES) {
  const capture = { sites: SITES, chunkBytes: chunkRows * ROW, bufferBytes: bufferRows * ROW };

  test(`preempted once ${name}`, async () => {
    const tokens = tokensOf(prompt, 3);
    const whole = await model.generate(tokens, { ...options(maxTokens), capture: { sites: SITES } });
    const before = model.stats();
    const joined = new Joined();
    let open: (() => void) | undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const slow = model.generate(tokens, {
      ...options(maxTokens),
      capture: {
        ...capture,
        onRows: async (rows) => {
          await gate;
          joined.add(rows);
        },
      },
    });
    await atRest();
    expect(model.stats().preemptions).toBe(before.preemptions);
    await neighbour(5);
    expect(model.stats().preemptions).toBe(before.preemptions + 1);
    expect(joined.chunks).toBe(0);
    open!();
    const result = await slow;
    expect(result.timing.preemptions).toBe(1);
    expect(model.stats().recomputedTokens).toBeGreaterThan(before.recomputedTokens);
    expect([...result.tokens]).toEqual([...whole.tokens]);
    expect(result.steering[0]!.rows).toBe(whole.steering[0]!.rows);
    joined.expectEqual(whole.captures!, name);
  });

  test(`preempted at every pause ${name}`, async () => {
    const tokens = tokensOf(prompt, 4);
    const whole = await model.generate(tokens, { ...options(maxTokens), capture: { sites: SITES } });
    const joined = new Joined();
    let chunks = 0;
    const result = await model.generate(tokens, {
      ...options(maxTokens),
      capture: {
        ...capture,
        onRows: async (rows) => {
          joined.add(rows);
          // Often enough, and not at every row of a long answer.
          if (chunks++ % 4 === 0) await neighbour(chunks);
        },
      },
    });
    console.log(`${name}: ${joined.chunks} chunks, ${result.timing.preemptions} preemptions`);
    expect(result.timing.preemptions).toBeGreaterThan(1);
    expect([...result.tokens]).toEqual([...whole.tokens]);
    joined.expectEqual(whole.captures!, name);
    expect(model.stats()).toMatchObject({ running: 0, waiting: 0, cacheBlocksUsed: 0, captureBytes: 0 });
  });
}

test("preempted and aborted before its turn comes again: the model goes on", async () => {
  const control = new AbortController();
  const reason = new Error("enough");
  const before = model.stats().preemptions;
  const slow = model.generate(tokensOf(100, 6), {
    ...{ ...options(100), signal: control.signal },
    capture: {
      sites: SITES,
      chunkBytes: 0,
      bufferBytes: 20 * ROW,
      onRows: () => new Promise<void>(() => undefined),
    },
  });
  slow.catch(() => undefined);
  await atRest();
  await neighbour(7);
  expect(model.stats().preemptions).toBe(before + 1);
  control.abort(reason);
  await expect(slow).rejects.toBe(reason);
  await expect.poll(() => model.stats().waiting).toBe(0);
  expect((await model.generate(tokensOf(10, 1), options(3))).tokens.length).toBe(3);
  expect(model.stats()).toMatchObject({ running: 0, waiting: 0, cacheBlocksUsed: 0, captureBytes: 0 });
});
