// SPDX-License-Identifier: Apache-2.0
// Alternating steps: a slowdown that is there is printed as what it is, never as 0 % (which a bench of ours once
// did), one that is not there is not found, and a run whose steps are not what they should be is refused.
import { describe, expect, it } from "vitest";
import {
  contrasts,
  cpuRatios,
  letters,
  rangesOf,
  STRETCH,
  samplesOf,
  shares,
  stepsOf,
  wallRatios,
  // @ts-expect-error plain JavaScript without types
} from "../../bench/lib/alternate.mjs";
// @ts-expect-error plain JavaScript without types
import { checkRows } from "../../bench/lib/batch-run.mjs";
// @ts-expect-error plain JavaScript without types
import { costText, shareText, summary } from "../../bench/lib/paired.mjs";

const OPERATORS = ["step", "tables", "steer"];
const WIDTH = 3 + OPERATORS.length;

/** profileSteps() of a machine: `ms(step)` per step, of which `steer(step)` microseconds in the operator. */
function marks(count: number, ms: (step: number) => number, steer: (step: number) => number, rows = 32) {
  const out: number[] = [];
  const now = [5e9, 7e9, 0, 0, 0];
  const step = (of: number, ms: number, us: number) => {
    for (const [i, more] of [ms * 1e6, 2 * ms * 1e6, 0, 2000, us * 1000].entries()) now[i]! += more;
    out.push(of, ...now);
  };
  // Two steps that belong to the joining.
  step(17, 3, 0);
  step(rows, 4, 0);
  for (let i = 0; i < count; i++) step(rows, ms(i), steer(i));
  return Float64Array.from(out);
}

/** Samples of one run in which B steps take `factor` times the others, on a machine that does `weather` to all. */
function measured(factor: number, weather: (step: number) => number, cells = 401, seed = 3) {
  const active: boolean[] = letters({ cells, seed });
  const ms = (i: number) => 100 * (active[i] ? factor : 1) * weather(i);
  const profile = marks(active.length, ms, (i) => (active[i] ? 800 : 0));
  const steps = stepsOf(profile, OPERATORS, { count: active.length, rows: 32 });
  return samplesOf(steps, active, { lines: ["steer", "tables"] });
}

/** Slow spells of twenty steps and noise of 6 % in every step. */
function neighbours(seed = 11) {
  let state = seed;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return (i: number) =>
    (i % 97 < 20 ? 1.5 : 1) *
    (1 + 0.06 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

describe("alternating steps", () => {
  it.each([
    [1.05, "+5.0 % (+5.0 to +5.0)"],
    [1.002, "+0.2 % (+0.2 to +0.2)"],
    [1, "0.0 % (0.0 to 0.0)"],
    [0.97, "-3.0 % (-3.0 to -3.0)"],
  ])("print an injected factor of %f as %s", (factor, text) => {
    const samples = measured(factor, () => 1);
    expect(costText(wallRatios(samples))).toBe(text);
    expect(costText(cpuRatios(samples))).toBe(text);
  });

  it("find 5 % under a context that grows and neighbours that come and go, and nothing where nothing is", () => {
    const weather = neighbours();
    const growing = (i: number) => (1 + i / 4000) * weather(i);
    for (const factor of [1.05, 1]) {
      const ratios = wallRatios(measured(factor, growing, 801));
      const { median, low, high } = summary(ratios, { stretch: STRETCH });
      console.log(`injected ${factor}: ${costText(ratios, { stretch: STRETCH })}`);
      expect(low).toBeLessThanOrEqual(factor);
      expect(high).toBeGreaterThanOrEqual(factor);
      expect(high - low).toBeLessThan(0.05);
      expect(Math.abs(median - factor)).toBeLessThan(0.02);
    }
    // The 5 % are told from nothing.
    expect(summary(wallRatios(measured(1.05, growing, 801))).low).toBeGreaterThan(1);
  });

  it("cancel what grows evenly", () => {
    const worst = (weather: (step: number) => number) =>
      Math.max(...wallRatios(measured(1.05, weather)).map((ratio: number) => Math.abs(ratio - 1.05)));
    // By the same factor each step, exactly; by the same amount (0.1 % of the first step), nearly.
    expect(worst((i) => 1.002 ** i)).toBeLessThan(1e-9);
    const even = worst((i) => 1 + i / 1000);
    console.log(`a step that grows by 0.1 % of the first: worst deviation ${even}`);
    expect(even).toBeLessThan(1e-6);
  });

  it("take the operators' own time from the steps that were steered, and the look at scopes from the others", () => {
    const samples = measured(1.05, () => 1, 5);
    for (const { idleUs, activeUs } of samples) {
      expect(idleUs).toBeCloseTo(2, 9);
      expect(activeUs).toBeCloseTo(802, 9);
    }
    expect(shareText(shares(samples))).toBe("0.76 % (0.76 to 0.76)");
  });

  it("have every other letter, and begin with either", () => {
    const first = new Set<boolean>();
    for (let seed = 0; seed < 40; seed++) {
      const active: boolean[] = letters({ cells: 7, seed });
      first.add(active[0]!);
      active.slice(1).forEach((letter, i) => {
        expect(letter).toBe(!active[i]);
      });
    }
    expect(first.size).toBe(2);
    const blocks: boolean[] = letters({ cells: 3, block: 5, seed: 1 });
    expect(blocks).toHaveLength(15);
    for (let i = 0; i < 15; i += 5) expect(new Set(blocks.slice(i, i + 5)).size).toBe(1);
    expect(blocks[5]).toBe(!blocks[0]);
  });

  it("compare blocks by their means", () => {
    const active: boolean[] = letters({ cells: 9, block: 4, seed: 2 });
    // Within a block the cost moves about; its mean is 5 % more in B.
    const ms = (i: number) => 100 * (active[i] ? 1.05 : 1) + [9, -9, 4, -4][i % 4]!;
    const profile = marks(active.length, ms, () => 0);
    const steps = stepsOf(profile, OPERATORS, { count: active.length, rows: 32 });
    const ratios = wallRatios(samplesOf(steps, active, { lines: ["steer"], block: 4 }));
    expect(ratios).toHaveLength(7);
    for (const ratio of ratios) expect(ratio).toBeCloseTo(1.05, 9);
  });

  it("lean to no side when spells of slowness fall on single steps", () => {
    // One step in seven takes twice as long: of B steps alone, more neighbourhoods have a slow A than a slow B.
    const ratios = wallRatios(measured(1, (i) => ((i * 5) % 7 === 0 ? 2 : 1), 1401));
    const logs = ratios.map((ratio: number) => Math.log(ratio)).sort((x: number, y: number) => x - y);
    expect(Math.abs(logs.reduce((sum: number, x: number) => sum + x, 0) / logs.length)).toBeLessThan(0.003);
    expect(costText(ratios)).toBe("0.0 % (0.0 to 0.0)");
  });

  it("say which positions are the B steps", () => {
    expect(rangesOf([false, true, true, false, true], 10)).toEqual([
      [11, 13],
      [14, 15],
    ]);
    const active: boolean[] = letters({ cells: 9, seed: 5 });
    const inside = active.map((_, i) =>
      rangesOf(active, 7).some(([start, end]: [number, number]) => i + 7 >= start && i + 7 < end),
    );
    expect(inside).toEqual(active);
  });

  it("refuse a run whose steps had other rows, or too few steps", () => {
    const profile = marks(
      8,
      () => 100,
      () => 0,
    );
    profile[4 * WIDTH] = 31;
    expect(() => stepsOf(profile, OPERATORS, { count: 8, rows: 32 })).toThrow(/step 2 of 8 had 31 rows/);
    expect(() => stepsOf(profile, OPERATORS, { count: 10, rows: 32 })).toThrow(/expected 11 steps/);
    expect(() => contrasts([1, 2, 3], [true, false, false])).toThrow(/do not alternate/);
    expect(() => contrasts([1, 2], [true, false])).toThrow(/three or more/);
  });

  it("refuse a run in which an operation was not applied, or once too often, or to somebody else", () => {
    const programs = [[{}, {}], [{}]];
    checkRows({ applied: [[4, 4], [4]] }, programs, 4);
    checkRows({ applied: [[], []] }, undefined, 0);
    for (const applied of [
      [[4, 3], [4]],
      [[4, 4], [5]],
      [[4], [4]],
    ])
      expect(() => checkRows({ applied }, programs, 4)).toThrow(/rows touched/);
    expect(() => checkRows({ applied: [[1], []] }, undefined, 0)).toThrow(/request 0/);
  });
});
