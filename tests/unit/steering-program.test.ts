// SPDX-License-Identifier: Apache-2.0
// Mistakes in a program are found before anything runs, each under its own name.
import { describe, expect, test } from "vitest";
import { compileProgram, type ProgramContext } from "../../src/steering/program.ts";
import { SteeringVector } from "../../src/steering/vector.ts";

const WIDTH = 4;
const context: ProgramContext = {
  modelName: "tiny",
  weightHash: "aa".repeat(32),
  strictVectors: false,
  layers: 3,
  promptLength: 10,
  vocabSize: 100,
  sites: [
    { name: "embed", path: "embed", width: WIDTH },
    ...[0, 1, 2].flatMap((n) => [
      { name: `layers.${n}`, path: `model.layers.${n}`, width: WIDTH },
      { name: `layers.${n}.attn`, path: `model.layers.${n}.self_attn`, width: WIDTH },
      { name: `layers.${n}.mlp`, path: `model.layers.${n}.mlp`, width: WIDTH },
    ]),
    { name: "final", path: "norm", width: WIDTH },
  ],
};
const v = [1, 2, 3, 4];

function failure(program: unknown, overrides: Partial<ProgramContext> = {}) {
  try {
    compileProgram(program, { ...context, ...overrides });
  } catch (error) {
    return error as Error & { code: string };
  }
  throw new Error("expected a refusal, got a compiled program");
}

describe("what is refused", () => {
  const cases: [name: string, program: unknown, code: string, says: RegExp][] = [
    ["no array", { layer: 1, vector: v }, "ERR_ARGUMENT_TYPE", /steering: expected an array/],
    ["layer too large", [{ layer: 3, vector: v }], "ERR_LAYER_RANGE", /0 to 2.*got 3/],
    ["layer too small", [{ layer: -4, vector: v }], "ERR_LAYER_RANGE", /got -4/],
    ["layer as site, too large", [{ site: "layers.9.attn", vector: v }], "ERR_LAYER_RANGE", /got 9/],
    ["layer that is no integer", [{ layer: 1.5, vector: v }], "ERR_ARGUMENT_TYPE", /integer layer/],
    ["layer as text", [{ layer: "1", vector: v }], "ERR_ARGUMENT_TYPE", /layer number/],
    [
      "unknown site",
      [{ site: "layers.1.atn", vector: v }],
      "ERR_SITE_UNKNOWN",
      /did you mean "layers.1.attn"/,
    ],
    ["layer and site", [{ layer: 1, site: "embed", vector: v }], "ERR_ARGUMENT_TYPE", /either layer or site/],
    ["neither layer nor site", [{ vector: v }], "ERR_SITE_MISSING", /a layer or a site/],
    ["wrong width", [{ layer: 1, vector: [1, 2] }], "ERR_VECTOR_WIDTH", /expected 4 elements.*got 2/],
    ["empty vector", [{ layer: 1, vector: [] }], "ERR_VECTOR_WIDTH", /got 0/],
    ["NaN", [{ layer: 1, vector: [1, Number.NaN, 0, 0] }], "ERR_VECTOR_NOT_FINITE", /NaN at element 1/],
    ["infinite", [{ layer: 1, vector: [1, 0, 0, Infinity] }], "ERR_VECTOR_NOT_FINITE", /element 3/],
    ["too large for float32", [{ layer: 1, vector: [1e39, 0, 0, 0] }], "ERR_VECTOR_NOT_FINITE", /element 0/],
    ["no vector", [{ layer: 1 }], "ERR_ARGUMENT_TYPE", /vector: expected a SteeringVector/],
    [
      "zero direction, cap",
      [{ layer: 1, op: "cap", vector: [0, 0, 0, 0], max: 1 }],
      "ERR_DIRECTION_ZERO",
      /zero/,
    ],
    [
      "zero direction, ablate",
      [{ layer: 1, op: "ablate", vector: [0, 0, 0, 0] }],
      "ERR_DIRECTION_ZERO",
      /zero/,
    ],
    [
      "min above max",
      [{ layer: 1, op: "cap", vector: v, min: 2, max: 1 }],
      "ERR_CAP_BOUNDS",
      /min 2 and max 1/,
    ],
    [
      "a bound at the wrong infinity",
      [{ layer: 1, op: "cap", vector: v, min: Infinity }],
      "ERR_CAP_BOUNDS",
      /min/,
    ],
    ["no bound", [{ layer: 1, op: "cap", vector: v }], "ERR_CAP_NO_BOUND", /min, max or both/],
    ["bound NaN", [{ layer: 1, op: "cap", vector: v, min: Number.NaN }], "ERR_ARGUMENT_TYPE", /min/],
    ["unknown op", [{ layer: 1, op: "ad", vector: v }], "ERR_ARGUMENT_TYPE", /did you mean "add"/],
    ["unknown key", [{ layer: 1, vector: v, scal: 2 }], "ERR_OPTION_UNKNOWN", /"scal"; did you mean "scale"/],
    ["a number of another op", [{ layer: 1, vector: v, max: 2 }], "ERR_OPTION_UNKNOWN", /"add" takes scale/],
    ["scale infinite", [{ layer: 1, vector: v, scale: Infinity }], "ERR_ARGUMENT_RANGE", /scale/],
    ["scale as text", [{ layer: 1, vector: v, scale: "2" }], "ERR_ARGUMENT_TYPE", /scale/],
    ["unknown scope key", [{ layer: 1, vector: v, scope: { fase: "all" } }], "ERR_OPTION_UNKNOWN", /phase/],
    [
      "position before the prompt",
      [{ layer: 1, vector: v, scope: { positions: [-11] } }],
      "ERR_SCOPE",
      /-11/,
    ],
    [
      "range backwards",
      [{ layer: 1, vector: v, scope: { positions: [[5, 2]] } }],
      "ERR_SCOPE",
      /start <= end/,
    ],
    [
      "first with prompt",
      [{ layer: 1, vector: v, scope: { phase: "prompt", first: 2 } }],
      "ERR_SCOPE",
      /prompt/,
    ],
    [
      "after beyond first",
      [{ layer: 1, vector: v, scope: { after: 4, first: 4 } }],
      "ERR_SCOPE",
      /after < first/,
    ],
    ["token outside", [{ layer: 1, vector: v, scope: { tokenIds: [100] } }], "ERR_TOKEN_RANGE", /0 up to 99/],
    ["null operation", [null], "ERR_ARGUMENT_TYPE", /steering\[0\]/],
  ];
  test.each(cases)("%s", (_name, program, code, says) => {
    const error = failure(program);
    expect(error.code).toBe(code);
    expect(error.message).toMatch(says);
  });

  test("a vector of a model of another width", () => {
    const vector = new SteeringVector({ directions: new Map([[1, [1, 2]]]), model: { name: "other" } });
    const error = failure([{ vector }]);
    expect(error.code).toBe("ERR_VECTOR_MODEL");
    expect(error.message).toMatch(/width 4.*"other" of width 2/);
  });

  test("a vector of other weights: a warning, an error when strict", () => {
    const model = { name: "other", weightHash: "bb".repeat(32) };
    const vector = new SteeringVector({ directions: new Map([[1, v]]), model });
    expect(compileProgram([{ vector }], context).warnings[0]).toMatch(/made from the weights of "other"/);
    expect(failure([{ vector }], { strictVectors: true }).code).toBe("ERR_VECTOR_MODEL");
  });
});

describe("what is filled in", () => {
  test("add at the last layer", () => {
    const { operations } = compileProgram([{ layer: -1, vector: v }], context);
    expect(operations).toEqual([
      {
        site: "layers.2",
        op: "add",
        vector: Float32Array.from(v),
        second: null,
        scale: 1,
        min: -Infinity,
        max: Infinity,
        mean: 0,
        amount: 1,
        keepNorm: false,
        phase: "all",
        positions: null,
        afterGenerated: 0,
        firstGenerated: 0x7fffffff,
        tokenIds: null,
        schedule: null,
        gate: null,
      },
    ]);
  });

  test("ablate removes the component unless told otherwise", () => {
    const [first, second] = compileProgram(
      [
        { layer: 0, op: "ablate", vector: v },
        { layer: 0, op: "ablate", vector: v, scale: 0.5, mean: 2 },
      ],
      context,
    ).operations;
    expect(first).toMatchObject({ scale: 0, mean: 0 });
    expect(second).toMatchObject({ scale: 0.5, mean: 2 });
  });

  test("a vector of several layers acts at each, in its order, under one index of the program", () => {
    const vector = new SteeringVector({ directions: new Map([2, 0].map((layer) => [layer, v])) });
    const compiled = compileProgram(
      [
        { layer: 1, vector: v },
        { vector, scale: 3 },
      ],
      context,
    );
    expect(compiled.operations.map((o) => [o.site, o.scale])).toEqual([
      ["layers.1", 1],
      ["layers.2", 3],
      ["layers.0", 3],
    ]);
    expect(compiled.sources).toEqual([0, 1, 1]);
  });

  test("a module path is a site", () => {
    const { operations } = compileProgram([{ site: "model.layers.1.mlp", vector: v }], context);
    expect(operations[0]?.site).toBe("layers.1.mlp");
  });

  test("positions from the end of the prompt, ranges half open", () => {
    const scope = { positions: [-1, [-4, -2], [0, 2], [-3, 0], [8, 20]] as const };
    const { operations } = compileProgram([{ layer: 0, vector: v, scope }], context);
    expect(Array.from(operations[0]!.positions!)).toEqual([9, 10, 6, 8, 0, 2, 7, 10, 8, 20]);
  });

  test("an empty list of positions selects nothing, which is not the same as all", () => {
    const { operations } = compileProgram([{ layer: 0, vector: v, scope: { positions: [] } }], context);
    expect(operations[0]!.positions).toHaveLength(0);
  });

  test("counting generated tokens means the generated ones unless all are asked for", () => {
    const compiled = compileProgram(
      [
        { layer: 0, vector: v, scope: { first: 4 } },
        { layer: 0, vector: v, scope: { phase: "all", after: 2 } },
      ],
      context,
    ).operations;
    expect(compiled[0]).toMatchObject({ phase: "generation", afterGenerated: 0, firstGenerated: 4 });
    expect(compiled[1]).toMatchObject({ phase: "all", afterGenerated: 2 });
  });

  test("the caller's vector can be changed afterwards", () => {
    const mine = Float32Array.from(v);
    const { operations } = compileProgram([{ layer: 0, vector: mine }], context);
    mine.fill(9);
    expect(Array.from(operations[0]!.vector)).toEqual(v);
  });
});
