// SPDX-License-Identifier: Apache-2.0
// The measuring must not find differences that are not there, nor miss those that are.
import { describe, expect, it } from "vitest";
// @ts-expect-error plain JavaScript without types
import { costText, mirrored, summary } from "../../bench/lib/paired.mjs";

/** A machine that gets slower all the time: each run takes `drift` more than the one before. */
function machine(drift: number) {
  let speed = 1;
  const order: string[] = [];
  const run = (name: string, cost: number) => async () => {
    order.push(name);
    const took = cost * speed;
    speed += drift;
    return took;
  };
  return { run, order };
}

describe("mirrored", () => {
  it("goes forth and back, and leaves out a side that cannot do the case", async () => {
    const { run, order } = machine(0.1);
    const measured = await mirrored({
      sides: { ours: run("a", 10), peer: run("b", 10), none: async () => null },
      rounds: 2,
    });
    expect(order.join("")).toBe("abbaabba");
    expect(measured.sides.none).toBeNull();
    expect(measured.sides.ours).toHaveLength(2);
    measured.sides.ours.forEach((cost: number, i: number) => {
      expect(cost).toBeCloseTo(measured.sides.peer[i], 12);
    });
  });
});

describe("summary", () => {
  it("holds the median inside its interval, the same each time, and is the range for few values", () => {
    const values = [1.02, 0.98, 1.01, 1.3, 0.99, 1.0, 1.03];
    const once = summary(values);
    expect(once).toEqual(summary(values));
    expect(once.median).toBe(1.01);
    expect(once.low).toBeGreaterThanOrEqual(0.98);
    expect(once.low).toBeLessThanOrEqual(once.median);
    expect(once.high).toBeGreaterThanOrEqual(once.median);
    // One outlier of seven does not own the interval's lower end, and does not move the median.
    expect(once.low).toBeLessThan(1.01);
    expect(summary([1, 2, 4])).toEqual({ median: 2, low: 1, high: 4 });
    // Nineteen values in stretches of four are fewer than five stretches.
    const few = Array.from({ length: 19 }, (_, i) => i);
    expect(summary(few, { stretch: 4 })).toEqual({ median: 9, low: 0, high: 18 });
    expect(summary([...few, 19], { stretch: 4 }).high).toBeLessThan(19);
  });

  it("covers the true median about as often as it says", () => {
    let state = 7;
    const uniform = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state + 0.5) / 2 ** 32;
    };
    const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    let covered = 0;
    for (let trial = 0; trial < 200; trial++) {
      const { low, high } = summary(
        Array.from({ length: 15 }, () => 1 + 0.04 * normal()),
        { resamples: 400 },
      );
      if (low <= 1 && high >= 1) covered++;
    }
    console.log(`95 % intervals that cover: ${covered} of 200`);
    expect(covered).toBeGreaterThanOrEqual(176);
  });

  it("is wider for neighbours that depend on one another, and then covers", () => {
    let state = 7;
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
    };
    const covered = { 1: 0, 4: 0 };
    for (let trial = 0; trial < 150; trial++) {
      // Signed second differences of noise: each shares two steps with the next.
      const steps = Array.from({ length: 82 }, () => uniform() - 0.5);
      const values = steps
        .slice(1, -1)
        .map((own, i) => 1 + (i % 2 ? 1 : -1) * (own - (steps[i]! + steps[i + 2]!) / 2));
      for (const stretch of [1, 4] as const) {
        const { low, high } = summary(values, { resamples: 300, stretch });
        if (low <= 1 && high >= 1) covered[stretch]++;
      }
    }
    console.log(`one at a time ${covered[1]} of 150 cover, four at a time ${covered[4]}`);
    expect(covered[4]).toBeGreaterThan(covered[1]);
    expect(covered[4]).toBeGreaterThanOrEqual(130);
  });

  it("prints a difference of nothing without a sign", () => {
    expect(costText([1, 1, 1])).toBe("0.0 % (0.0 to 0.0)");
    expect(costText([1.012, 0.997, 1.025])).toBe("+1.2 % (-0.3 to +2.5)");
  });
});
