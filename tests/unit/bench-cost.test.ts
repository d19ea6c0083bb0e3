// SPDX-License-Identifier: Apache-2.0
// A benchmark that prints 0 % whatever is measured looks like a fast product. So a slowdown is put in where the
// time comes from, and must come out as the printed number, by the very functions the benchmarks call. (Steps
// against steps of one run: bench-alternate.test.ts.)
import { expect, it } from "vitest";
// @ts-expect-error plain JavaScript without types
import { BatchRunner } from "../../bench/lib/batch-run.mjs";
// @ts-expect-error plain JavaScript without types
import { abba, costText } from "../../bench/lib/paired.mjs";
// @ts-expect-error plain JavaScript without types
import { inTurns, percentText } from "../../bench/lib/turns.mjs";

const STEPS = 8;
const PROMPTS = [
  [5, 6, 7],
  [8, 9, 10],
];

interface Asked {
  maxTokens: number;
  steering?: { rows: number }[];
}

/** An engine on paper: a step takes 10 ms, and `slower` times as long for a steered request. */
function engine(slower: number) {
  let steps = 0;
  return {
    info: { vocabSize: 512, contextLength: 512 },
    stats: () => ({ steps }),
    async generate(_: Int32Array, { maxTokens, steering }: Asked) {
      // The plug comes first; its step, the prompts' and those after it are the run's.
      if (maxTokens === 1) steps += 2 + STEPS;
      const generateMs = 10 * STEPS * (steering ? slower : 1);
      return { timing: { generateMs, queuedMs: 0, promptMs: 1 }, steering: steering ?? [], tokens: [] };
    },
  };
}

it.each([
  [1.25, "+25.0 % (+25.0 to +25.0)"],
  [1.004, "+0.4 % (+0.4 to +0.4)"],
  [0.9, "-10.0 % (-10.0 to -10.0)"],
  [1, "0.0 % (0.0 to 0.0)"],
])(
  "defect 7: steering that takes %d times as long is printed as %s where whole runs are compared",
  async (slower, text) => {
    const runner = new BatchRunner(engine(slower), 512);
    const timed = (programs?: unknown[]) => async () => {
      const { stepMs } = await runner.run({ tokens: PROMPTS, steps: STEPS, programs });
      return stepMs;
    };
    const program = [{ rows: 1 }];
    const measured = await abba({
      baseline: timed(),
      cases: { steered: timed(PROMPTS.map(() => program)) },
      rounds: 6,
    });
    expect(costText(measured.cases.steered.ratios)).toBe(text);
  },
);

it("defect 7: a slowdown is printed as such by the GPU benchmark's measurement, warm-up left out", async () => {
  let runs = 0;
  const run = (seconds: number) => async () => {
    // Recording graphs makes the first round slow.
    runs++;
    return runs <= 3 ? 100 * seconds : seconds;
  };
  const rows = await inTurns({
    cases: { "not steered": run(0.02), "one layer": run(0.02), "all layers": run(0.025) },
    rounds: 3,
  });
  expect(runs).toBe(12);
  expect(rows.map(({ cost }: { cost: number }) => percentText(cost))).toEqual(["0.0 %", "0.0 %", "+25.0 %"]);
  expect(rows[2].per).toBe(0.025);
  expect(percentText(-0.0312)).toBe("-3.1 %");
  expect(percentText(-0.0001)).toBe("0.0 %");
});
