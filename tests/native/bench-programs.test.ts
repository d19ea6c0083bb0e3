// SPDX-License-Identifier: Apache-2.0
// A benchmark that measures something else than it says: requests that did not decode together, programs that
// are not different, operations that do not act.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
// @ts-expect-error plain JavaScript without types
import { BatchRunner } from "../../bench/lib/batch-run.mjs";
// @ts-expect-error plain JavaScript without types
import { makePrograms, PROGRAMS } from "../../bench/lib/steering-cases.mjs";
// @ts-expect-error plain JavaScript without types
import { prompts } from "../../bench/lib/workload.mjs";
import { SteerModel } from "../../src/model/steer-model.ts";

const BATCH = 8;
const PROMPT = 3;
const STEPS = 6;
let model: SteerModel;

beforeAll(async () => {
  model = await SteerModel.load("stories260k", { threads: 2, maxBatch: BATCH + 1, tokenBudget: 512 });
});
afterAll(() => model.dispose());

const work = () => ({ tokens: prompts(BATCH, PROMPT, model.info.vocabSize), steps: STEPS });
const layers = () => Array.from({ length: model.info.layers }, (_, layer) => layer);

describe("the distinct-program benchmark", () => {
  it.each(Object.keys(PROGRAMS))("%s: acts on every row of every request, in lockstep", async (name) => {
    const made = makePrograms(name, { count: BATCH, layers: layers(), width: model.info.hiddenSize });
    const runner = new BatchRunner(model, 512);
    const answer = await runner.run({ ...work(), programs: made });
    // A row of each in every step from the first token on.
    for (const { timing } of answer.results) expect(timing.generateSteps).toBe(STEPS);
    expect(answer.touched).toBe(BATCH * (PROMPT + STEPS) * made[0].length);
    for (const ids of answer.tokens) expect(ids).toHaveLength(STEPS + 1);
    expect(answer.stepMs).toBeGreaterThan(0);
  });

  it("makes programs whose vectors are all different, the same ones each time", () => {
    const settings = { count: 3, layers: layers(), width: model.info.hiddenSize, seed: 5 };
    const made = makePrograms("add", settings);
    const firsts = new Set(made.flat().map(({ vector }: { vector: Float32Array }) => vector[0]));
    expect(firsts.size).toBe(3 * layers().length);
    expect(makePrograms("add", settings)).toEqual(made);
    for (const { vector } of made.flat()) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  });

  it("runs again, with a longer plug, when a request joined late, and refuses prompts that need two steps", async () => {
    const { fake, plugs } = stagger([1, 2, 0]);
    const answer = await new BatchRunner(fake, 512).run(work());
    expect(answer.tokens).toHaveLength(BATCH);
    // The third one, which was none too late, is the one that counts.
    expect(plugs).toEqual([24, 48, 96]);
    const never = stagger(new Array(20).fill(1));
    await expect(new BatchRunner(never.fake, 512).run(work())).rejects.toThrow("did not decode together");
    await expect(new BatchRunner(model, 16).run(work())).rejects.toThrow(/tokenBudget/);
  });
});

/** A model whose n-th batch takes late[n] steps more than one in lockstep would. */
function stagger(late: number[]) {
  const plugs: number[] = [];
  let steps = 0;
  const fake = {
    info: { vocabSize: 512, contextLength: 512 },
    stats: () => ({ steps }),
    generate: async (ids: Int32Array, { maxTokens }: { maxTokens: number }) => {
      if (maxTokens === 1) {
        plugs.push(ids.length);
        steps += 2 + STEPS + late[plugs.length - 1]!;
      }
      const timing = { queuedMs: 1, promptMs: 1, generateMs: 1 };
      return { timing, steering: [], tokens: new Int32Array(maxTokens) };
    },
  };
  return { fake, plugs };
}
