// SPDX-License-Identifier: Apache-2.0
// The ends of steps that benchmarks are computed from: a step that is missing, counted twice, or told with the rows
// of another would be measured as a cost.
import { afterAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { loadAddon } from "../../src/native/loader.ts";

const addon = loadAddon();
const model = await SteerModel.load("stories260k");
afterAll(() => model.dispose());

const COLUMNS = 3 + addon.profile("read").length;
const names = addon.profile("read").map(({ operator }) => operator);

function marks() {
  const flat = addon.profileSteps();
  expect(flat.length % COLUMNS).toBe(0);
  return Array.from({ length: flat.length / COLUMNS }, (_, i) => {
    const [rows, end, processor, ...operators] = flat.slice(i * COLUMNS, (i + 1) * COLUMNS);
    return { rows: rows!, end: end!, processor: processor!, operators };
  });
}

describe("profileSteps", () => {
  it("marks each step once, with its rows and every operator's time up to there", async () => {
    const before = model.stats().steps;
    addon.profile("start");
    const vector = new Float32Array(model.info.hiddenSize).fill(0.1);
    // Acts on the generated rows 2 and 3 alone.
    const steering = [{ layer: 1, vector, scope: { after: 2, first: 4 } }];
    await model.generate([5, 6, 7], {
      maxTokens: 8,
      temperature: 0,
      ignoreEos: true,
      reusePrefix: false,
      steering,
    });
    const profile = addon.profile("stop");
    const steps = marks();
    expect(model.stats().steps - before).toBe(8);
    expect(steps.map(({ rows }) => rows)).toEqual([3, 1, 1, 1, 1, 1, 1, 1]);
    for (const [i, step] of steps.entries()) {
      if (i === 0) continue;
      expect(step.end).toBeGreaterThan(steps[i - 1]!.end);
      expect(step.processor).toBeGreaterThanOrEqual(steps[i - 1]!.processor);
      step.operators.forEach((time, o) => {
        expect(time, names[o]!).toBeGreaterThanOrEqual(steps[i - 1]!.operators[o]!);
      });
    }
    // The operators' times are those of profile(), at the last step; steering took some in two steps alone.
    for (const [o, line] of profile.entries())
      expect(steps.at(-1)!.operators[o]!, line.operator).toBeLessThanOrEqual(line.nanoseconds);
    const steer = names.indexOf("steer");
    const more = steps.map(({ operators }, i) => operators[steer]! - (steps[i - 1]?.operators[steer] ?? 0));
    expect(more.map((time) => time > 0)).toEqual([false, false, false, true, true, false, false, false]);
  });

  it("starts anew with a profile, and marks nothing without one", async () => {
    addon.profile("start");
    expect(addon.profileSteps()).toHaveLength(0);
    addon.profile("stop");
    await model.generate([5, 6, 7], { maxTokens: 3, temperature: 0, ignoreEos: true });
    expect(addon.profileSteps()).toHaveLength(0);
  });
});
