// SPDX-License-Identifier: Apache-2.0
// Quadruples that are gathered in pieces: no case starves, nothing is lost between pieces, and what was
// measured otherwise is not mixed in.
import { describe, expect, it } from "vitest";
// @ts-expect-error plain JavaScript without types
import { gather, kept, packed, unpacked } from "../../bench/lib/samples.mjs";

const sample = (a: number) => ({ a, b: a * 1.05, cpuA: 2 * a, cpuB: 2.1 * a, idleUs: 1, activeUs: 802.5 });

describe("samples", () => {
  it("come evenly, each case once however short the time", async () => {
    const order: string[] = [];
    const run = (name: string, length: number) => ({
      length,
      run: async () => {
        order.push(name);
        return Array.from({ length }, () => sample(100));
      },
    });
    const have: Record<string, unknown[]> = { b: [sample(1)] };
    await gather({ cases: { a: run("a", 2), b: run("b", 2), c: run("c", 2) }, have, seconds: 0 });
    expect(order).toEqual(["a", "c"]);
    expect(have.b).toHaveLength(1);

    order.length = 0;
    let rounds = 0;
    const slow = (name: string, length: number) => ({
      length,
      run: async () => {
        order.push(name);
        if (++rounds > 9) await new Promise((resolve) => setTimeout(resolve, 120));
        return Array.from({ length }, () => sample(100));
      },
    });
    const even: Record<string, unknown[]> = {};
    await gather({ cases: { a: slow("a", 1), b: slow("b", 9), c: slow("c", 2) }, have: even, seconds: 0.1 });
    expect(order.slice(0, 9).join("")).toBe("abcabcabc");
    // By runs, not by what a run brings.
    const counts = [even.a!.length, even.b!.length / 9, even.c!.length / 2];
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
  });

  it("are kept and taken up again", () => {
    const have = {
      "32|add|1|all": [sample(108.25), sample(99)].map((each) => ({ ...each, submitMs: 0.5 })),
      none: [],
    };
    const settings = { model: "m", threads: 2 };
    const result = { samples: JSON.parse(JSON.stringify(packed(settings, have, ["submitMs"]))) };
    const back = unpacked(result.samples);
    expect(Object.keys(back)).toEqual(Object.keys(have));
    expect(back.none).toEqual([]);
    have["32|add|1|all"].forEach((each, i) => {
      for (const [field, value] of Object.entries(each))
        expect(back["32|add|1|all"][i][field]).toBeCloseTo(value, 3);
    });
    expect(kept("x", settings, () => result)).toEqual(back);
    expect(() => kept("x", { ...settings, threads: 1 }, () => result)).toThrow(/was measured as/);
    // Kept without samples, or not at all: a beginning.
    expect(kept("x", settings, () => ({}))).toEqual({});
    expect(kept("nothing-of-this-name", settings)).toEqual({});
  });
});
