// SPDX-License-Identifier: Apache-2.0
// Many requests of mixed programs through one engine: every answer is the one its kind has alone, and
// memory and blocks are where they were.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { BLOCK_BYTES, direction, PROGRAMS, random, signature, tokensOf } from "./engine-world.ts";

/** MiB by which resident memory may grow over the second half: the allocator's own unrest. */
const TOLERANCE = 24;

const REQUESTS = 10_000;

// Garbage that has not been collected yet is no growth.
setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;

test("ten thousand requests of mixed programs: no cross-talk, flat memory", {
  timeout: 240_000,
}, async () => {
  const model = await SteerModel.load("stories260k", {
    ...{ device: "cpu", tokenBudget: 96, maxBatch: 24, cacheBytes: 40 * BLOCK_BYTES },
  });
  try {
    const next = random(REQUESTS);
    const kinds = Array.from({ length: 48 }, (_, i) => ({
      prompt: tokensOf(1 + Math.floor(next() * 60), i % 7),
      options: {
        steering: PROGRAMS[i % PROGRAMS.length]!,
        maxTokens: 1 + Math.floor(next() * 8),
        temperature: i % 3 === 0 ? 0.9 : 0,
        seed: i,
        logprobs: 0,
        ignoreEos: true,
        ...(i % 5 === 0 ? { capture: { sites: ["layers.2"] } } : {}),
        ...(i % 7 === 0 ? { probes: [{ name: "p", layer: 1, direction: direction(3) }] } : {}),
      },
    }));
    const alone: string[] = [];
    for (const { prompt, options } of kinds)
      alone.push(JSON.stringify(signature(await model.generate(prompt, { ...options, reusePrefix: false }))));

    let [done, aborted, middle] = [0, 0, 0];
    const resident = () => {
      gc();
      return process.memoryUsage.rss() / 2 ** 20;
    };
    const client = async () => {
      while (done + aborted < REQUESTS) {
        const kind = Math.floor(next() * kinds.length);
        const { prompt, options } = kinds[kind]!;
        if (next() < 0.05) {
          const control = new AbortController();
          const answer = model.generate(prompt, { ...options, maxTokens: 50, signal: control.signal });
          setTimeout(() => control.abort("enough"), next() * 3);
          await answer.catch((reason) => expect(reason).toBe("enough"));
          aborted++;
        } else {
          const answer = await model.generate(prompt, options);
          if (JSON.stringify(signature(answer)) !== alone[kind])
            throw new Error(`kind ${kind} answered otherwise`);
          done++;
        }
        if (middle === 0 && done + aborted >= REQUESTS / 2) middle = resident();
      }
    };
    await Promise.all(Array.from({ length: 32 }, client));
    await expect.poll(() => model.stats().running + model.stats().waiting).toBe(0);
    const grown = resident() - middle;
    const { cacheBlocksUsed, captureBytes, programs, steps, preemptions, meanStepSequences } = model.stats();
    console.log(
      `soak: ${done} answers as alone, ${aborted} ended early, ${steps} steps of ${meanStepSequences.toFixed(1)} requests, ` +
        `${preemptions} preemptions; resident ${middle.toFixed(0)} MiB half-way, ${grown.toFixed(1)} more at the end`,
    );
    expect({ cacheBlocksUsed, captureBytes, programs }).toEqual({
      cacheBlocksUsed: 0,
      captureBytes: 0,
      programs: 0,
    });
    expect(grown).toBeLessThan(TOLERANCE);
  } finally {
    await model.dispose();
  }
});
