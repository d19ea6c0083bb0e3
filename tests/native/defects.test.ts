// SPDX-License-Identifier: Apache-2.0
// Defects that the projects before this one, and their peers, had: each is shown to be absent, under its
// number in docs/numerics.md. The engine runs in chunks of seven rows, so that nothing here is one forward.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";
import { direction, PROGRAMS, signature, tokensOf, touched } from "./engine-world.ts";

let model: SteerModel;
let whole: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 7, maxBatch: 6 });
  whole = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 512 });
});
afterAll(() => Promise.all([model.dispose(), whole.dispose()]));

const WIDTH = 64;
const prompt = tokensOf(50, 3);
const options = { maxTokens: 20, ignoreEos: true, logprobs: 0 } as const;
const run = (steering: SteeringProgram, site = "layers.2", on = model) =>
  on.generate(prompt, { ...options, steering, capture: { sites: [site] }, reusePrefix: false });
const rowsOf = ({ captures }: Awaited<ReturnType<typeof run>>, site = "layers.2") => {
  const { data, positions } = captures![site]!;
  return Array.from(positions, (_, r) => data.subarray(r * WIDTH, (r + 1) * WIDTH));
};
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};

/** Positions whose row differs from the plain run's; stops where the texts part. */
async function changedRows(steering: SteeringProgram) {
  const [plain, steered] = [await run([]), await run(steering)];
  expect(Array.from(steered.tokens)).toEqual(Array.from(plain.tokens));
  const before = rowsOf(plain);
  return rowsOf(steered).flatMap((row, position) =>
    row.every((x, i) => x === before[position]![i]) ? [] : [position],
  );
}
// Too weak to change a token, strong enough to change every bit of a row.
const weak = direction(1).map((x) => x * 1e-4);
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

test("defect 2: keys and values computed unsteered never serve a steered request, nor the other way round", async () => {
  const ask = (steering: SteeringProgram, reusePrefix: boolean) =>
    model.generate(prompt, { ...options, steering, reusePrefix });
  for (const [i, first] of PROGRAMS.entries())
    for (const second of PROGRAMS.slice(0, i)) {
      await ask(first, true);
      const warm = signature(await ask(second, true));
      expect(warm).toEqual(signature(await ask(second, false)));
    }
}, 60_000);

test("defect 3: rows are those that were scheduled, in chunks and behind a cached prefix", async () => {
  for (const program of PROGRAMS) {
    const steered = { steering: program, ...options };
    const alone = await whole.generate(prompt, { ...steered, reusePrefix: false });
    for (const reusePrefix of [false, true, true]) {
      const result = await model.generate(prompt, { ...steered, reusePrefix });
      expect(signature(result)).toEqual(signature(alone));
      if (!program.some((o) => o.gate)) expect(touched(result)).toEqual(touched(alone));
    }
  }
});

test("defect 4: a capture holds every row of prompt and answer, in order, whatever the chunks", async () => {
  for (let maxTokens = 1; maxTokens < 18; maxTokens++) {
    const { captures } = await model.generate(prompt, { ...options, maxTokens, capture: { sites: [2] } });
    expect(Array.from(captures!["layers.2"]!.positions)).toEqual(range(0, 50 + maxTokens - 1));
    expect(captures!["layers.2"]!.data).toHaveLength((50 + maxTokens - 1) * WIDTH);
  }
});

test("defect 5: operations act in their order, as often as given, whoever is beside them", async () => {
  const [a, b] = [direction(1), direction(2)];
  const add = { layer: 2, vector: a } as const;
  const ablate = { layer: 2, op: "ablate", vector: b } as const;
  const programs: SteeringProgram[] = [[add, ablate], [ablate, add], [add, add], [add], [add, ablate, add]];
  const together = await Promise.all(programs.map((program) => run(program)));
  for (const [i, program] of programs.entries())
    expect(signature(together[i]!)).toEqual(signature(await run(program)));
  // The prompt's rows show what acted: the second of two adds, and whether the ablation came last.
  const plain = rowsOf(await run([]));
  const along = (i: number, v: Float32Array) => rowsOf(together[i]!).map((row) => dot(row, v));
  for (const r of range(0, 50)) {
    expect(along(2, a)[r]! - dot(plain[r]!, a)).toBeCloseTo(2 * dot(a, a), 2);
    expect(along(0, b)[r]!).toBeCloseTo(0, 3);
    expect(along(1, b)[r]!).toBeCloseTo(dot(a, b), 3);
  }
});

test("defect 6: directions of cap and ablate are normalised, and nothing about them is process-wide", async () => {
  const long = direction(4).map((x) => x * 37);
  const unit = long.map((x) => x / Math.sqrt(dot(long, long)));
  const [capped, ablated] = await Promise.all([
    run([{ layer: 2, op: "cap", vector: long, min: -0.25, max: 0.25 }]),
    run([{ layer: 2, op: "ablate", vector: long }]),
  ]);
  for (const row of rowsOf(capped)) expect(Math.abs(dot(row, unit))).toBeLessThan(0.25 + 1e-4);
  for (const row of rowsOf(ablated)) expect(dot(row, unit)).toBeCloseTo(0, 4);
});

test("defect 7: chat is steered, and says so", async () => {
  const template = "{% for m in messages %}{{ m.content }}{% endfor %}";
  const ask = (steering: SteeringProgram) =>
    model.chat([{ role: "user", content: "Once upon a time" }], {
      template,
      maxTokens: 12,
      steering,
      logprobs: 0,
    });
  const [plain, steered] = [await ask([]), await ask([{ layer: 2, vector: direction(1), scale: 2 }])];
  expect(signature(steered)).not.toEqual(signature(plain));
  expect(steered.steering[0]!.rows).toBe(steered.promptTokens.length + steered.tokens.length - 1);
});

test("defect 8: every operation acts on every row of its scope in every run, or the answer is an error", async () => {
  const rows = 50 + options.maxTokens - 1;
  for (let i = 0; i < 20; i++) {
    const [{ steering }] = await Promise.all([run(PROGRAMS[5]!), run([])]);
    expect(steering.map((o) => o.rows)).toEqual([rows, rows, rows]);
    for (const { meanChangeNorm } of steering) expect(meanChangeNorm).toBeGreaterThan(0);
  }
  await expect(run([{ site: "layers.9", vector: direction(1) }])).rejects.toMatchObject({
    code: expect.stringMatching(/^ERR_(SITE|LAYER)/),
  });
});

test("defect 9: a layer's state is residual plus delta, of the layer it is named after, on every path", async () => {
  const sites = [
    "embed",
    ...range(0, 5).flatMap((l) => [`layers.${l}.attn`, `layers.${l}.mlp`, `layers.${l}`]),
  ];
  const generated = await model.generate(prompt, { ...options, capture: { sites } });
  const tokens = Int32Array.from([...prompt, ...generated.tokens.subarray(0, -1)]);
  const { captures } = await whole.forward(tokens, { capture: { sites } });
  let worst = 0;
  const stream = Float64Array.from(captures.embed!.data);
  for (const l of range(0, 5)) {
    for (const part of ["attn", "mlp"])
      for (const [i, x] of captures[`layers.${l}.${part}`]!.data.entries()) stream[i]! += x;
    for (const [i, x] of captures[`layers.${l}`]!.data.entries())
      worst = Math.max(worst, Math.abs(x - stream[i]!));
    expect(generated.captures![`layers.${l}`]!.data).toEqual(captures[`layers.${l}`]!.data);
  }
  console.log(`sum of what the blocks add, against the captured stream: ${worst.toExponential(1)}`);
  expect(worst).toBeLessThan(1e-4);
});

describe("defect 11", () => {
  test("a write is not lost when a neighbour writes at the same site", async () => {
    const vectors = range(0, 6).map((i) => direction(i + 20));
    const plain = rowsOf(await run([]));
    const together = await Promise.all(vectors.map((vector) => run([{ layer: 2, vector }])));
    for (const [i, result] of together.entries())
      for (const r of range(0, 50))
        for (const k of [0, 17, 63])
          expect(rowsOf(result)[r]![k]! - plain[r]![k]!).toBeCloseTo(vectors[i]![k]!, 4);
  });

  test("positions are of the sequence, not of a chunk or a forward", async () => {
    const scope = { positions: [3, [24, 31], [-2, 0]] as [number, [number, number], [number, number]] };
    expect(await changedRows([{ layer: 2, vector: weak, scope }])).toEqual([3, ...range(24, 31), 48, 49]);
  });

  test("generated tokens are counted over the answer, not inside each forward", async () => {
    const scope = { phase: "generation", after: 4, first: 9 } as const;
    expect(await changedRows([{ layer: 2, vector: weak, scope }])).toEqual(range(54, 59));
  });

  test("an operation without a scope acts on prompt and answer", async () => {
    expect(await changedRows([{ layer: 2, vector: weak }])).toEqual(range(0, 69));
  });

  test("what was read stays as it was when the engine goes on", async () => {
    const first = await run([]);
    const kept = Float32Array.from(first.captures!["layers.2"]!.data);
    await Promise.all(PROGRAMS.map((program) => run(program)));
    expect(first.captures!["layers.2"]!.data).toEqual(kept);
  });

  test("the change is not rounded through half precision", async () => {
    const half = await SteerModel.load("stories260k", { device: "cpu", dtype: "bfloat16", tokenBudget: 7 });
    try {
      const [plain, steered] = [
        rowsOf(await run([], "layers.2", half)),
        rowsOf(await run([{ layer: 2, vector: direction(1) }], "layers.2", half)),
      ];
      let worst = 0;
      for (const r of range(0, 50))
        for (const [k, v] of direction(1).entries())
          worst = Math.max(worst, Math.abs(steered[r]![k]! - plain[r]![k]! - v));
      console.log(`bfloat16: captured change against the vector: ${worst.toExponential(1)}`);
      expect(worst).toBeLessThan(1e-5);
    } finally {
      await half.dispose();
    }
  });

  test("a gate without its reading is refused, and one that reads is open for the rows it should", async () => {
    const read = rowsOf(await run([], "layers.1"), "layers.1");
    const along = direction(2);
    const values = read.map((row) => dot(row, along) / Math.sqrt(dot(along, along)));
    // Half-way between the two middle readings: open for half of the rows, none of them near.
    const sorted = values.toSorted((x, y) => x - y);
    const threshold = (sorted[33]! + sorted[34]!) / 2;
    const gate = { layer: 4, direction: along, threshold };
    await expect(run([{ layer: 2, vector: weak, gate }])).rejects.toMatchObject({ code: "ERR_GATE_ORDER" });
    const open = values.flatMap((value, r) => (value > threshold ? [r] : []));
    expect(open.length).toBe(35);
    expect(await changedRows([{ layer: 2, vector: weak, gate: { ...gate, layer: 1 } }])).toEqual(open);
  });
});
