// SPDX-License-Identifier: Apache-2.0
// Every operation on a real (small) model against its formula in float64; order, repeats, schedules,
// identity, mixed programs in one batch, cached against cold.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { GenerateResult } from "../../src/model/results.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringOperation } from "../../src/steering/program.ts";
import { linearStrength } from "../../src/steering/schedule.ts";
import { Deviation } from "./golden.ts";
import { type Formula, length, orthonormal, steered, wave } from "./steering-formulas.ts";

const PROMPT = "Once upon a time";
const [u, w] = [wave(1), wave(2)];
const basis = orthonormal([wave(3), wave(4), wave(5)]).map((row) => Float32Array.from(row));

const OPERATIONS: Record<string, Omit<SteeringOperation, "layer">> = {
  add: { op: "add", vector: u, scale: 1.5 },
  cap: { op: "cap", vector: u, min: -0.1, max: 0.1 },
  ablate: { op: "ablate", vector: u, scale: 0.25, mean: 0.5 },
  replace: { op: "replace", vector: u, amount: 0.3 },
  rotate: { op: "rotate", vector: u, angle: 0.4 },
  "rotate past the axis": { op: "rotate", vector: u, angle: 2.5 },
  "rotate away": { op: "rotate", vector: u, angle: -1 },
  addNorm: { op: "addNorm", vector: u, scale: 0.2 },
  "addNorm at its limit": { op: "addNorm", vector: u, scale: -3, limit: 0.5 },
  swap: { op: "swap", vector: u, to: w },
  subspace: { op: "subspace", vector: basis, push: [1, -2, 0.5], keep: [0, 0.5, 2], mean: [0.1, 0, -1] },
  "add with keepNorm": { op: "add", vector: u, scale: 4, keepNorm: true },
  "subspace with keepNorm": { op: "subspace", vector: basis, push: [3, 1, 1], keepNorm: true },
};

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu" });
});
afterAll(() => model?.dispose());

const rowsAt = async (site: string, steering: SteeringOperation[], prompt = PROMPT) => {
  const { captures } = await model.forward(prompt, { capture: { sites: [site] }, steering, logits: "none" });
  const { data, shape } = captures[site]!;
  return Array.from({ length: shape[0] }, (_, r) =>
    Array.from(data.subarray(r * shape[1], (r + 1) * shape[1])),
  );
};
const scaleOf = (rows: number[][]) => Math.max(...rows.map(length));
const same = (a: Float32Array, b: Float32Array) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer));
const ids = (result: GenerateResult) => Array.from(result.tokens);

describe("formulas", () => {
  test.each(["layers.2", "layers.1.attn", "layers.3.mlp", "embed", "final"])("at %s", async (site) => {
    const plain = await rowsAt(site, []);
    for (const [name, operation] of Object.entries(OPERATIONS)) {
      const got = await rowsAt(site, [{ site, ...operation }]);
      const deviation = new Deviation();
      for (const [r, h] of plain.entries())
        deviation.compare(`row ${r}`, got[r]!, steered(h, operation as Formula));
      if (site === "layers.2") console.log(`${name}: ${deviation}`);
      expect(deviation.worst, `${name}: ${deviation}`).toBeLessThan(2e-6 * Math.max(1, scaleOf(got)));
    }
  });

  test("in the order given, repeats included", async () => {
    const names = ["rotate", "add", "swap", "subspace", "add", "cap", "rotate", "addNorm", "ablate", "swap"];
    for (const order of [names, names.toReversed()]) {
      const program = order.map((name) => ({ layer: 2, ...OPERATIONS[name]! }));
      const [plain, got] = [await rowsAt("layers.2", []), await rowsAt("layers.2", program)];
      const deviation = new Deviation();
      for (const [r, h] of plain.entries())
        deviation.compare(
          `row ${r}`,
          got[r]!,
          program.reduce((row, o) => steered(row, o as Formula), h),
        );
      console.log(`order: ${deviation}`);
      expect(deviation.worst).toBeLessThan(1e-5 * scaleOf(got));
    }
  });

  test("rotation keeps the norm", async () => {
    const rows = await rowsAt("layers.2", [{ layer: 2, op: "rotate", vector: u, angle: 1.2 }]);
    const plain = await rowsAt("layers.2", []);
    for (const [r, row] of rows.entries())
      expect(Math.abs(length(row) / length(plain[r]!) - 1)).toBeLessThan(1e-6);
  });
});

describe("schedules", () => {
  test("factors follow the generated token; prompt rows take the first", async () => {
    const schedule = linearStrength({ from: 1, to: 0, tokens: 4 });
    const options = { maxTokens: 8, ignoreEos: true, capture: { sites: [2] } };
    const { captures, steering, usage } = await model.generate(PROMPT, {
      ...options,
      steering: [{ layer: 2, vector: u, scale: 0.5, schedule }],
    });
    // 7 generated rows; from the fifth on the factor is 0 and nothing is touched.
    expect(steering[0]!.rows).toBe(usage.promptTokens + 4);
    const { data, positions } = captures!["layers.2"]!;
    const plain = await rowsAt("layers.2", []);
    const deviation = new Deviation();
    for (const [r, h] of plain.entries())
      deviation.compare(
        `row ${r}`,
        data.subarray(r * 64, r * 64 + 64),
        steered(h, { op: "add", vector: u, scale: 0.5 }),
      );
    expect(deviation.worst).toBeLessThan(1e-5);
    expect(positions.length).toBe(usage.promptTokens + 7);
    const factors = [1, 0.75, 0.5, 0.25];
    const asked = factors.reduce((sum, f) => sum + f, usage.promptTokens) * 0.5 * length(u);
    expect(Math.abs((steering[0]!.meanChangeNorm * steering[0]!.rows) / asked - 1)).toBeLessThan(1e-5);
  });

  test.each(Object.keys(OPERATIONS))("%s at half strength", async (name) => {
    const operation = OPERATIONS[name]!;
    const schedule = [[0, 0.5]] as const;
    const [plain, got] = [
      await rowsAt("layers.2", []),
      await rowsAt("layers.2", [{ layer: 2, ...operation, schedule }]),
    ];
    const deviation = new Deviation();
    for (const [r, h] of plain.entries())
      deviation.compare(`row ${r}`, got[r]!, steered(h, operation as Formula, 0.5));
    expect(deviation.worst, `${deviation}`).toBeLessThan(2e-6 * Math.max(1, scaleOf(got)));
  });
});

describe("identity", () => {
  const nothing: Record<string, SteeringOperation> = {
    "rotate by 0": { layer: 2, op: "rotate", vector: u, angle: 0 },
    "addNorm of scale 0": { layer: 2, op: "addNorm", vector: u, scale: 0 },
    "addNorm limited to 0": { layer: 2, op: "addNorm", vector: u, limit: 0 },
    "subspace that pushes nothing": { layer: 2, op: "subspace", vector: basis },
    "strength 0": { layer: 2, op: "swap", vector: u, to: w, schedule: [[0, 0]] },
    "a schedule that is 0 on the prompt": {
      layer: 2,
      vector: u,
      schedule: [
        [0, 0],
        [5, 1],
      ],
    },
    "a gate that never opens": { layer: 2, vector: u, gate: { direction: w, threshold: 1e9 } },
    "a gate elsewhere that never opens": {
      layer: 2,
      vector: u,
      gate: { layer: 0, direction: w, threshold: -1e9, above: false },
    },
    "a latched gate on a prompt": {
      layer: 2,
      vector: u,
      gate: { direction: w, threshold: -1e9, latch: "prompt" },
    },
  };
  test.each(Object.keys(nothing))(
    "%s: logits bit-identical to the plain run, no row counted",
    async (name) => {
      const plain = await model.forward(PROMPT, { logits: "all" });
      const other = await model.forward(PROMPT, { logits: "all", steering: [nothing[name]!] });
      expect(same(other.logits, plain.logits)).toBe(true);
      expect(other.steering[0]!.rows).toBe(0);
      expect(other.warnings[0]).toMatch(/touched no row/);
    },
  );
});

describe("cache and batches", () => {
  const long = `${"Tim went to the park and saw a big dog. ".repeat(6)}Then`;
  const gate = { layer: 0, direction: w, threshold: 0.02, cosine: true };
  const programs: SteeringOperation[][] = [
    [],
    [{ layer: 2, ...OPERATIONS.rotate! }],
    [{ layer: 2, ...OPERATIONS.add!, gate }],
    [{ layer: 2, ...OPERATIONS.add!, gate: { ...gate, above: false } }],
    [
      { layer: 1, ...OPERATIONS.swap!, gate: { direction: u, threshold: 0 } },
      { layer: 3, ...OPERATIONS.subspace! },
    ],
    [{ layer: 2, ...OPERATIONS.addNorm!, schedule: linearStrength({ from: 1, to: 0.1, tokens: 20 }) }],
    [{ layer: 2, ...OPERATIONS.add!, gate: { layer: 4, direction: w, threshold: 0, latch: "prompt" } }],
    [
      {
        layer: 2,
        ...OPERATIONS.add!,
        gate: { layer: 4, direction: w, threshold: 0, above: false, latch: "prompt" },
      },
    ],
    [
      { layer: 4, ...OPERATIONS.subspace! },
      { layer: 4, ...OPERATIONS.rotate! },
      { layer: 4, ...OPERATIONS.subspace! },
    ],
  ];
  const options = (steering: SteeringOperation[]) => ({
    ...{ maxTokens: 40, ignoreEos: true, logprobs: 0, steering },
    probes: [{ name: "w", layer: 3, direction: w }],
  });

  test("mixed programs in one batch answer as alone, bit for bit", async () => {
    const together = await model.generate(
      programs.map(() => PROMPT),
      programs.map(options),
    );
    for (const [i, result] of together.entries()) {
      const alone = await model.generate(PROMPT, options(programs[i]!));
      expect(ids(result), `program ${i}`).toEqual(ids(alone));
      expect(
        result.steering.map((s) => s.rows),
        `program ${i}`,
      ).toEqual(alone.steering.map((s) => s.rows));
      expect(same(result.logprobs!.tokens, alone.logprobs!.tokens), `program ${i}: logprobs`).toBe(true);
      expect(same(result.probes!.w!.values, alone.probes!.w!.values), `program ${i}: probe`).toBe(true);
    }
  });

  test("a cached prefix is reused where programs act alike and nowhere else", async () => {
    const cold: GenerateResult[] = [];
    for (const steering of programs) {
      // A model of its own for each: nothing can have been cached.
      await using fresh = await SteerModel.load("stories260k", { device: "cpu" });
      cold.push(await fresh.generate(long, { maxTokens: 40, ignoreEos: true, logprobs: 0, steering }));
    }
    for (const round of [1, 2]) {
      for (const [i, steering] of programs.entries()) {
        const warm = await model.generate(long, { maxTokens: 40, ignoreEos: true, logprobs: 0, steering });
        if (round === 2) expect(warm.usage.cachedTokens, `program ${i}`).toBeGreaterThan(0);
        expect(ids(warm), `program ${i}, round ${round}`).toEqual(ids(cold[i]!));
        expect(same(warm.logprobs!.tokens, cold[i]!.logprobs!.tokens), `program ${i}, round ${round}`).toBe(
          true,
        );
      }
    }
  }, 120_000);

  test("generated text given back as a prompt is not taken for the same where schedules or latches acted", async () => {
    for (const steering of [programs[5]!, programs[6]!, programs[7]!]) {
      const first = await model.generate(long, { maxTokens: 60, ignoreEos: true, steering });
      const tokens = Int32Array.from([...first.promptTokens, ...first.tokens]);
      const warm = await model.generate(
        { tokens },
        { maxTokens: 20, ignoreEos: true, logprobs: 0, steering },
      );
      await using fresh = await SteerModel.load("stories260k", { device: "cpu" });
      const cold = await fresh.generate(
        { tokens },
        { maxTokens: 20, ignoreEos: true, logprobs: 0, steering },
      );
      expect(ids(warm)).toEqual(ids(cold));
      expect(same(warm.logprobs!.tokens, cold.logprobs!.tokens)).toBe(true);
    }
  }, 120_000);
});
