// SPDX-License-Identifier: Apache-2.0
// Vectors as values: the algebra, and that nothing that comes out or goes in can change one.
import { describe, expect, test } from "vitest";
import { SteeringVector } from "../../src/steering/vector.ts";

const two = (a: number[], b: number[], extra = {}) =>
  new SteeringVector({
    directions: new Map([
      [1, a],
      [4, b],
    ]),
    ...extra,
  });

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return "nothing thrown";
}

describe("algebra", () => {
  const a = two([3, 4], [1, 0], { name: "a" });
  const b = two([1, 0], [0, 2], { name: "b" });

  test("plus, minus, times, negated act site by site", () => {
    expect(Array.from(a.plus(b).at(1))).toEqual([4, 4]);
    expect(Array.from(a.minus(b).at(4))).toEqual([1, -2]);
    expect(Array.from(a.times(-2).at(1))).toEqual([-6, -8]);
    expect(Array.from(a.negated().at(4))).toEqual([-1, -0]);
    expect(a.plus(b).name).toBe("a + b");
  });

  test("norm, dot and cosine of one site and of all", () => {
    expect(a.norm({ site: 1 })).toBe(5);
    expect(a.norm()).toBeCloseTo(Math.sqrt(26), 12);
    expect(a.dot(b)).toBe(3);
    expect(a.dot(b, { site: "layers.4" })).toBe(0);
    expect(a.cosine(b, { site: 1 })).toBeCloseTo(0.6, 12);
    expect(a.cosine(a.negated())).toBe(-1);
  });

  test("normalized gives length one at every site", () => {
    const unit = a.normalized();
    for (const site of unit.sites) expect(unit.norm({ site })).toBeCloseTo(1, 6);
  });

  test("what does not fit is refused by name", () => {
    expect(codeOf(() => a.plus(two([1, 2, 3], [4, 5, 6])))).toBe("ERR_VECTOR_WIDTH");
    expect(codeOf(() => a.plus(a.only([1])))).toBe("ERR_VECTOR_SITE");
    expect(codeOf(() => a.at(2))).toBe("ERR_VECTOR_SITE");
    expect(codeOf(() => two([0, 0], [1, 1]).normalized())).toBe("ERR_DIRECTION_ZERO");
    expect(codeOf(() => a.cosine(two([0, 0], [0, 0])))).toBe("ERR_DIRECTION_ZERO");
    expect(codeOf(() => a.times(Number.NaN))).toBe("ERR_ARGUMENT_RANGE");
    expect(codeOf(() => a.plus([1, 2] as never))).toBe("ERR_ARGUMENT_TYPE");
    expect(codeOf(() => two([1, Number.NaN], [0, 0]))).toBe("ERR_VECTOR_NOT_FINITE");
    expect(codeOf(() => two([1], [1, 2]))).toBe("ERR_VECTOR_WIDTH");
    expect(codeOf(() => new SteeringVector({ directions: new Map() }))).toBe("ERR_ARGUMENT_TYPE");
    expect(codeOf(() => new SteeringVector({ directions: [1], nme: "x" } as never))).toBe(
      "ERR_OPTION_UNKNOWN",
    );
    const of = (weightHash: string) => two([1, 2], [3, 4], { model: { name: "m", weightHash } });
    expect(codeOf(() => of("aa").plus(of("bb")))).toBe("ERR_VECTOR_MODEL");
  });
});

describe("immutable", () => {
  test("neither what was given nor what is handed out is the vector itself", () => {
    const given = Float32Array.from([1, 2]);
    const vector = new SteeringVector({ directions: new Map([[0, given]]) });
    given.fill(7);
    vector.at(0).fill(8);
    expect(Array.from(vector.at(0))).toEqual([1, 2]);
  });

  test("fields cannot be written", () => {
    const vector = two([1, 2], [3, 4]);
    expect(() => {
      (vector as { name: string }).name = "x";
    }).toThrow(TypeError);
  });
});

test("a direction without a layer fits any site", () => {
  const vector = new SteeringVector({ directions: [1, 2] });
  expect(vector.sites).toEqual(["*"]);
  expect(vector.layers).toEqual([]);
  expect(Array.from(vector.at(17))).toEqual([1, 2]);
});
