// SPDX-License-Identifier: Apache-2.0
// Rotations, swaps, subspaces, gates, schedules and probes: what is refused, and what is handed on.
import { describe, expect, test } from "vitest";
import { compileReduction } from "../../src/model/capture-reduction.ts";
import { compileProbes } from "../../src/model/probes.ts";
import { compileProgram, type ProgramContext } from "../../src/steering/program.ts";
import { constantStrength, decayingStrength, linearStrength } from "../../src/steering/schedule.ts";
import { SteeringVector } from "../../src/steering/vector.ts";

const context: ProgramContext = {
  modelName: "tiny",
  weightHash: "",
  strictVectors: false,
  layers: 2,
  promptLength: 5,
  vocabSize: 10,
  sites: [
    { name: "embed", path: "embed", width: 4 },
    { name: "layers.0", path: "model.layers.0", width: 4 },
    { name: "layers.1", path: "model.layers.1", width: 4 },
    { name: "narrow", path: "narrow", width: 2 },
  ],
};
const v = [1, 2, 3, 4];
const half = Math.SQRT1_2;
const basis = [
  [half, half, 0, 0],
  [half, -half, 0, 0],
];
const compile = (operation: object) => compileProgram([operation], context).operations;
const codeOf = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return (error as { code: string }).code;
  }
  throw new Error("expected a refusal");
};

describe("what is refused", () => {
  const gate = { direction: v, threshold: 1 };
  const cases: [name: string, operation: object, code: string][] = [
    ["rotate without an angle", { layer: 0, op: "rotate", vector: v }, "ERR_ARGUMENT_TYPE"],
    ["rotate with a scale", { layer: 0, op: "rotate", vector: v, angle: 1, scale: 2 }, "ERR_OPTION_UNKNOWN"],
    ["rotate to nothing", { layer: 0, op: "rotate", vector: [0, 0, 0, 0], angle: 1 }, "ERR_DIRECTION_ZERO"],
    ["a limit below 0", { layer: 0, op: "addNorm", vector: v, limit: -1 }, "ERR_ARGUMENT_RANGE"],
    ["swap to nowhere", { layer: 0, op: "swap", vector: v }, "ERR_ARGUMENT_TYPE"],
    ["swap to zero", { layer: 0, op: "swap", vector: v, to: [0, 0, 0, 0] }, "ERR_DIRECTION_ZERO"],
    ["swap to another width", { layer: 0, op: "swap", vector: v, to: [1, 2] }, "ERR_VECTOR_WIDTH"],
    ["a subspace of one flat vector", { layer: 0, op: "subspace", vector: v }, "ERR_ARGUMENT_TYPE"],
    ["a subspace of nothing", { layer: 0, op: "subspace", vector: [] }, "ERR_SUBSPACE_RANK"],
    [
      "rows that are not orthogonal",
      { layer: 0, op: "subspace", vector: [basis[0], [1, 0, 0, 0]] },
      "ERR_SUBSPACE_BASIS",
    ],
    ["rows of another length", { layer: 0, op: "subspace", vector: [[2, 0, 0, 0]] }, "ERR_SUBSPACE_BASIS"],
    ["a push too many", { layer: 0, op: "subspace", vector: basis, push: [1, 2, 3] }, "ERR_ARGUMENT_TYPE"],
    ["a subspace nowhere", { op: "subspace", vector: basis }, "ERR_SITE_MISSING"],
    ["a gate without threshold", { layer: 0, vector: v, gate: { direction: v } }, "ERR_ARGUMENT_TYPE"],
    [
      "a gate with a typing error",
      { layer: 0, vector: v, gate: { ...gate, treshold: 1 } },
      "ERR_OPTION_UNKNOWN",
    ],
    [
      "a gate of zero",
      { layer: 0, vector: v, gate: { ...gate, direction: [0, 0, 0, 0] } },
      "ERR_DIRECTION_ZERO",
    ],
    [
      "a gate of another width",
      { layer: 0, vector: v, gate: { ...gate, site: "narrow" } },
      "ERR_VECTOR_WIDTH",
    ],
    ["a gate at no site", { layer: 0, vector: v, gate: { ...gate, site: "embd" } }, "ERR_SITE_UNKNOWN"],
    ["an unknown latch", { layer: 0, vector: v, gate: { ...gate, latch: "always" } }, "ERR_ARGUMENT_TYPE"],
    ["an empty schedule", { layer: 0, vector: v, schedule: [] }, "ERR_ARGUMENT_TYPE"],
    [
      "a schedule that goes back",
      {
        layer: 0,
        vector: v,
        schedule: [
          [4, 1],
          [4, 0],
        ],
      },
      "ERR_ARGUMENT_RANGE",
    ],
    ["a schedule of infinity", { layer: 0, vector: v, schedule: [[0, Infinity]] }, "ERR_ARGUMENT_RANGE"],
  ];
  test.each(cases)("%s", (_, operation, code) => {
    expect(codeOf(() => compile(operation))).toBe(code);
  });

  test("probes without a place, of zero, or of one name", () => {
    const probes = (list: object[]) => () => compileProbes(list, { ...context, warnings: [] });
    expect(codeOf(probes([{ name: "a", direction: v }]))).toBe("ERR_SITE_MISSING");
    expect(codeOf(probes([{ name: "a", layer: 0, direction: [0, 0, 0, 0] }]))).toBe("ERR_DIRECTION_ZERO");
    const one = { name: "a", layer: 0, direction: v };
    expect(codeOf(probes([one, one]))).toBe("ERR_ARGUMENT_TYPE");
  });

  test("reductions of two kinds, of a wrong width, or pooled after the k largest", () => {
    const site = context.sites[1]!;
    const sae = { weight: new Float32Array(12) };
    expect(codeOf(() => compileReduction({ directions: [v], lens: 3 }, site, "none"))).toBe(
      "ERR_ARGUMENT_TYPE",
    );
    expect(codeOf(() => compileReduction({ directions: [[1, 2]] }, site, "none"))).toBe("ERR_VECTOR_WIDTH");
    expect(codeOf(() => compileReduction({ sae: { weight: new Float32Array(10) } }, site, "none"))).toBe(
      "ERR_VECTOR_WIDTH",
    );
    expect(codeOf(() => compileReduction({ sae: { ...sae, topK: 2 } }, site, "mean"))).toBe("ERR_REDUCER");
    expect(
      codeOf(() => compileReduction({ lens: 3 }, { name: "final", path: "norm", width: 4 }, "none")),
    ).toBe("ERR_REDUCER");
  });
});

describe("what is handed on", () => {
  test("angle, limit and swap target", () => {
    expect(compile({ layer: 0, op: "rotate", vector: v, angle: 0.5 })[0]).toMatchObject({
      op: "rotate",
      scale: 0.5,
    });
    const limited = { layer: 0, op: "addNorm", vector: v, scale: 2, limit: 0.25 };
    expect(compile(limited)[0]).toMatchObject({ scale: 2, max: 0.25 });
    expect(compile({ layer: 0, op: "swap", vector: v, to: [4, 3, 2, 1] })[0]!.second).toEqual(
      Float32Array.of(4, 3, 2, 1),
    );
  });

  test("a subspace as one matrix with push, keep and mean", () => {
    const [operation] = compile({ layer: 0, op: "subspace", vector: basis, push: [1, 2], keep: 0.5 });
    expect(operation!.vector).toEqual(Float32Array.from(basis.flat()));
    expect(operation!.second).toEqual(Float32Array.of(1, 2, 0.5, 0.5, 0, 0));
  });

  test("a gate's own site is left to the row, another is named", () => {
    const directions = new Map<number | string, readonly number[]>([
      [0, v],
      [1, [4, 3, 2, 1]],
    ]);
    const direction = new SteeringVector({ directions: directions as never });
    const [own] = compile({ layer: 1, vector: v, gate: { direction, threshold: 2, layer: 1 } });
    expect(own!.gate).toMatchObject({ site: "", above: true, cosine: false, latch: false });
    expect(own!.gate!.direction).toEqual(Float32Array.of(4, 3, 2, 1));
    const [other] = compile({
      layer: 1,
      vector: v,
      gate: { direction, threshold: 2, layer: 0, above: false, latch: "prompt" },
    });
    expect(other!.gate).toMatchObject({
      site: "layers.0",
      above: false,
      latch: true,
      direction: Float32Array.from(v),
    });
  });

  test("schedules are points with lines between them", () => {
    expect(compile({ layer: 0, vector: v, schedule: constantStrength(0.5) })[0]!.schedule).toEqual(
      Float32Array.of(0, 0.5),
    );
    const linear = linearStrength({ from: 1, to: 0, tokens: 10 });
    expect(compile({ layer: 0, vector: v, schedule: linear })[0]!.schedule).toEqual(
      Float32Array.of(0, 1, 10, 0),
    );
    const decay = decayingStrength({ halfLife: 8 });
    const at = (x: number) => {
      const next = decay.findIndex(([index]) => index > x);
      const [[x0, y0], [x1, y1]] = [decay[next - 1]!, decay[next]!];
      return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
    };
    for (let x = 0; x < 79; x += 0.37) expect(Math.abs(at(x) - 2 ** (-x / 8))).toBeLessThan(1.1e-3);
  });
});
