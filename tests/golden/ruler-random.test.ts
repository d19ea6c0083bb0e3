// SPDX-License-Identifier: Apache-2.0
// The random streams RULER's bytes hang on, against streams recorded from CPython and numpy.
import { describe, expect, it } from "vitest";
import { NumpyRandom } from "../../src/ruler/random/numpy.ts";
import { PythonRandom } from "../../src/ruler/random/python.ts";
import { zetaCounts } from "../../src/ruler/tasks/frequent-words.ts";
import { riemannZeta } from "../../src/ruler/tasks/zeta.ts";
import { goldenJson, hasGolden } from "./ruler-golden.ts";

type Streams = Record<string, unknown>;
const vectors = hasGolden ? (goldenJson("rng_vectors.json") as Record<string, Streams>) : {};
const seeds = ["0", "1", "7", "42", "43", "123456789", "4294967295"];
const times = <T>(n: number, draw: () => T): T[] => Array.from({ length: n }, draw);

describe.skipIf(!hasGolden)("CPython's random.Random", () => {
  for (const seed of seeds) {
    it(`gives the recorded streams of seed ${seed}`, () => {
      const want = vectors[`py_${seed}`] as Record<string, unknown>;
      const fresh = () => new PythonRandom(BigInt(seed));
      const got = (name: string, value: unknown) => expect(value, name).toEqual(want[name]);
      const state = fresh().snapshot();
      got("state_head", [...state.slice(0, 8), state[624]]);
      let r = fresh();
      got(
        "random_x10",
        times(10, () => String(r.random())),
      );
      r = fresh();
      got(
        "getrandbits32_x5",
        times(5, () => r.getrandbits(32)),
      );
      r = fresh();
      got(
        "getrandbits_1_5_31_33_64_128",
        [1, 5, 31, 33, 64, 128].map((k) => String(r.getrandbitsBig(k))),
      );
      r = fresh();
      got(
        "uuid4_x4",
        times(4, () => r.uuid4()),
      );
      r = fresh();
      got(
        "randint_1000000_9999999_x10",
        times(10, () => r.randint(1000000, 9999999)),
      );
      r = fresh();
      got(
        "randrange_10_x20",
        times(20, () => r.randbelow(10)),
      );
      r = fresh();
      got(
        "randrange_6171620_x10",
        times(10, () => r.randbelow(6171620)),
      );
      r = fresh();
      got(
        "choice_range_7_x20",
        times(20, () => r.choice([0, 1, 2, 3, 4, 5, 6])),
      );
      r = fresh();
      got(
        "choices_AZ_k5_x5",
        times(5, () => r.choiceString("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 5)),
      );
      r = fresh();
      got(
        "choices_az_k6_x5",
        times(5, () => r.choiceString("abcdefghijklmnopqrstuvwxyz", 6)),
      );
      r = fresh();
      got(
        "uniform_2_5_x5",
        times(5, () => String(r.uniform(2, 5))),
      );
      for (const name of Object.keys(want)) {
        const [, kind, a, b] = /^(shuffle|sample)_(\d+)(?:_(\d+))?$/.exec(name) ?? [];
        if (kind === "shuffle") {
          const items = Array.from({ length: Number(a) }, (_, i) => i);
          fresh().shuffle(items);
          got(name, items);
        } else if (kind === "sample") {
          const items = fresh().sampleIndices(Number(a), Number(b));
          const expected = want[name] as { head: number[]; tail: number[]; sum: number } | number[];
          if (Array.isArray(expected)) got(name, items);
          else
            got(name, {
              head: items.slice(0, expected.head.length),
              tail: items.slice(-expected.tail.length),
              sum: items.reduce((s, x) => s + x, 0),
            });
        }
      }
    });
  }

  it("takes seeds of any size and ignores the sign", () => {
    expect(new PythonRandom(-7).snapshot()).toEqual(new PythonRandom(7).snapshot());
    const big = vectors.py_big_4294967296 as Record<string, unknown> | unknown[];
    const r = new PythonRandom(4294967296n);
    const list = Array.isArray(big) ? big : (Object.values(big)[0] as unknown[]);
    const probe = times(list.length, () => r.random());
    expect(probe.map(String)).toEqual(list.map(String));
  });
});

describe.skipIf(!hasGolden)("numpy's legacy RandomState", () => {
  for (const seed of seeds) {
    it(`gives the recorded streams of seed ${seed}`, () => {
      const want = vectors[`np_${seed}`] as Record<string, unknown>;
      const fresh = () => new NumpyRandom(Number(seed));
      const got = (name: string, value: unknown) => expect(value, name).toEqual(want[name]);
      let r = fresh();
      got(
        "randint_10000_99999_x10",
        times(10, () => r.randint(10000, 99999)),
      );
      r = fresh();
      got(
        "random_sample_x5",
        times(5, () => String(r.randomSample())),
      );
      r = fresh();
      got(
        "randint_0_10_size10",
        times(10, () => r.randint(0, 10)),
      );
      got("permutation_20", fresh().permutation(20));
      const items = Array.from({ length: 20 }, (_, i) => i);
      fresh().shuffle(items);
      got("shuffle_20", items);
      got("choice_50_5_noreplace", fresh().choiceDistinct(50, 5));
      got("choice_50_5_replace", fresh().choice(50, 5));
      got("choice_p", fresh().choiceWeighted([0.1, 0.2, 0.3, 0.4], (want.choice_p as number[]).length));
      r = fresh();
      got(
        "zipf_2_x10",
        times(10, () => r.zipf(2)),
      );
      r = fresh();
      got(
        "uniform_x3",
        times(3, () => String(r.uniform(2, 5))),
      );
      r = fresh();
      const normals = times(5, () => r.standardNormal());
      const expected = (want.standard_normal_x5 as string[]).map(Number);
      const worst = Math.max(...normals.map((x, i) => Math.abs(x - expected[i]!)));
      expect(worst, `worst deviation ${worst}`).toBeLessThanOrEqual(1e-15);
    });
  }
});

describe.skipIf(!hasGolden)("the numbers of the frequent-words task", () => {
  it("has zeta to the last bit scipy gives", () => {
    const zeta = vectors.zeta as unknown as Record<string, string>;
    for (const [x, value] of Object.entries(zeta)) {
      const off = Math.abs(riemannZeta(Number(x)) / Number(value) - 1);
      expect(off, `zeta(${x}) off by ${off}`).toBeLessThanOrEqual(x === "2.0" ? 0 : 2 ** -52);
    }
  });

  it("writes each rank as often as recorded", () => {
    const counts = vectors.fwe_counts as unknown as Record<string, number[]>;
    const zeta = vectors.zeta as unknown as Record<string, string>;
    for (const [name, want] of Object.entries(counts)) {
      const [words, ranks, alpha] = name.split("_");
      expect(zetaCounts(Number(words), Number(ranks), Number(alpha), Number(zeta[alpha!])), name).toEqual(
        want,
      );
    }
  });
});
