// SPDX-License-Identifier: Apache-2.0
// Strangers' archives run, are read and steered as PyTorch does it with hooks: whatever their layers
// return (a tensor, one element of a tuple, delta and residual), with a past and without.

import { describe, expect, it } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { NativeModel } from "../../src/native/contract.ts";
import { capture, cosine, fixture, golden, open, operation, program, run, worst } from "./foreign-world.ts";

const KINDS = [
  { name: "tensor", layersPath: "blocks", output: "hidden", cached: false, tolerance: 1e-4 },
  { name: "tuple", layersPath: "layers", output: "hidden", cached: false, tolerance: 1e-4 },
  { name: "second", layersPath: "layers", output: "hidden", cached: false, tolerance: 1e-4 },
  { name: "pair", layersPath: "layers", output: "delta-residual", cached: false, tolerance: 1e-4 },
  { name: "past", layersPath: "layers", output: "hidden", cached: true, tolerance: 1e-4 },
  { name: "llama", layersPath: "model.layers", output: "hidden", cached: false, tolerance: 1e-4 },
  { name: "llama-past", layersPath: "model.layers", output: "hidden", cached: true, tolerance: 1e-4 },
  // bfloat16 has 8 bits: the reference itself is rounded after each layer.
  { name: "pair-bf16", layersPath: "layers", output: "delta-residual", cached: false, tolerance: 3e-2 },
] as const;

describe.each(KINDS)("archive $name", ({ name, layersPath, output, cached, tolerance }) => {
  const reference = golden(name.replace("-past", ""));
  const layers = 3;
  const tokens = Int32Array.from(reference.ids);

  async function using(work: (model: NativeModel) => Promise<void>): Promise<void> {
    const model = await open(fixture(`${name}.pt`));
    try {
      await work(model);
    } finally {
      await model.dispose();
    }
  }

  it("is understood: layers, what they return, width, past", () =>
    using(async (model) => {
      expect(model.info).toMatchObject({
        kind: "foreign",
        layers,
        layersPath,
        layerOutput: output,
        cached,
        hiddenSize: reference.width,
        vocabSize: reference.vocab,
      });
      const names = model.info.sites.map((site) => site.name);
      expect(names).toEqual(
        expect.arrayContaining(["layers.0", "layers.1", "layers.2", "embed"].slice(0, 3)),
      );
    }));

  it("gives the reference's logits and hidden states, plain and steered", () =>
    using(async (model) => {
      for (const [label, expected] of Object.entries(reference.cases)) {
        const result = await run(model, {
          tokens,
          logits: "all",
          program: program(label, reference),
          captures: [0, 1, 2].map((layer) => capture(`layers.${layer}`)),
        });
        const logits = worst(result.logits, expected.logits);
        const figures = [`logits ${logits.toExponential(1)}`];
        expect(logits).toBeLessThanOrEqual(tolerance);
        if (expected.hidden) {
          const got = result.captures.flatMap((each) => [...each.data]);
          const hidden = worst(got, expected.hidden);
          const likeness = cosine(got, expected.hidden);
          figures.push(`hidden ${hidden.toExponential(1)}`, `1 - cosine ${(1 - likeness).toExponential(1)}`);
          expect(hidden).toBeLessThanOrEqual(tolerance);
          expect(likeness).toBeGreaterThanOrEqual(tolerance > 1e-3 ? 0.9999 : 0.999999);
          for (const each of result.captures)
            expect([...each.positions]).toEqual(reference.ids.map((_, i) => i));
        }
        if (label !== "plain") expect([...result.touched]).toEqual([tokens.length]);
        console.log(`${name} ${label}: ${figures.join(", ")}`);
      }
    }));

  it("speaks the reference's greedy tokens, each row touched and captured once", () =>
    using(async (model) => {
      for (const [label, expected] of Object.entries(reference.cases)) {
        if (expected.margin < (tolerance > 1e-3 ? 0.1 : 1e-3)) continue;
        const result = await run(model, {
          tokens: tokens.subarray(0, 4),
          maxTokens: 10,
          program: program(label, reference),
          captures: [capture(`layers.${reference.layer}`)],
        });
        expect([...result.tokens], label).toEqual(expected.greedy);
        // The last token is never fed back: 4 prompt rows and 9 generated ones.
        expect([...(result.captures[0]?.positions ?? [])], label).toEqual([...Array(13).keys()]);
        if (label !== "plain") expect([...result.touched], label).toEqual([13]);
      }
    }));

  it("captures steered minus plain = scale x vector at the steered layer", () =>
    using(async (model) => {
      const [vector, site] = [Float32Array.from(reference.vector), `layers.${reference.layer}`];
      const captures = [capture(site)];
      const plain = await run(model, { tokens, captures });
      const steered = await run(model, {
        tokens,
        captures,
        program: [operation(site, vector, { scale: 2 })],
      });
      const difference = (steered.captures[0]?.data ?? new Float32Array()).map(
        (value, i) => value - (plain.captures[0]?.data[i] ?? 0),
      );
      const wanted = difference.map((_, i) => 2 * (vector[i % vector.length] as number));
      const off = worst(difference, wanted);
      console.log(`${name} steered - plain - 2v: ${off.toExponential(1)}`);
      expect(off).toBeLessThanOrEqual(1e-5);
    }));

  it("changes nothing with scale 0 and restores after steering", () =>
    using(async (model) => {
      const plain = await run(model, { tokens, logits: "all" });
      const vector = Float32Array.from(reference.vector);
      const idle = await run(model, {
        tokens,
        logits: "all",
        program: [operation("layers.1", vector, { scale: 0 })],
      });
      await run(model, { tokens, logits: "all", program: program("add", reference) });
      const restored = await run(model, { tokens, logits: "all" });
      expect(worst(idle.logits, plain.logits)).toBe(0);
      expect(worst(restored.logits, plain.logits)).toBe(0);
    }));

  it("keeps requests apart that run at once", () =>
    using(async (model) => {
      const jobs = ["plain", "add", "ablate", "cap"].map((label) =>
        run(model, { tokens: tokens.subarray(0, 4), maxTokens: 10, program: program(label, reference) }),
      );
      const together = await Promise.all(jobs);
      for (const [i, label] of ["plain", "add", "ablate", "cap"].entries()) {
        const alone = await run(model, {
          tokens: tokens.subarray(0, 4),
          maxTokens: 10,
          program: program(label, reference),
        });
        expect([...(together[i]?.tokens ?? [])]).toEqual([...alone.tokens]);
      }
    }));
});

it("SteerModel runs and steers one, with rows counted and the norm that acted", async () => {
  await using model = await SteerModel.load(fixture("llama-past.pt"), { device: "cpu", threads: 1 });
  const reference = golden("llama");
  const vector = Float32Array.from(reference.vector);
  const prompt = { tokens: reference.ids.slice(0, 4) };
  const plain = await model.generate(prompt, { maxTokens: 10 });
  const steered = await model.generate(prompt, {
    maxTokens: 10,
    steering: [{ layer: reference.layer, op: "add", vector, scale: 2 }],
  });
  const restored = await model.generate(prompt, { maxTokens: 10 });
  expect([...plain.tokens]).toEqual(reference.cases.plain?.greedy);
  expect([...steered.tokens]).toEqual(reference.cases.add?.greedy);
  expect([...restored.tokens]).toEqual([...plain.tokens]);
  expect(steered.steering).toMatchObject([{ site: "layers.1", op: "add", rows: 13 }]);
});

describe("sites of a stranger's archive", () => {
  it("can be any submodule by its path", async () => {
    const model = await open(fixture("llama.pt"));
    try {
      const path = "model.layers.1.mlp.down_proj";
      const site = model.info.sites.find((each) => each.path === path);
      expect(site?.width).toBe(32);
      const vector = new Float32Array(32).fill(0.5);
      const tokens = Int32Array.of(3, 1, 4, 1, 5);
      const captures = [capture(path), capture("layers.1")];
      const plain = await run(model, { tokens, captures });
      const steered = await run(model, { tokens, captures, program: [operation(path, vector, {})] });
      // What down_proj gives is added to the stream, so the layer's output moves by as much.
      for (const i of [0, 1]) {
        const moved = (steered.captures[i]?.data ?? new Float32Array()).map(
          (value, k) => value - (plain.captures[i]?.data[k] ?? 0),
        );
        expect(worst(moved, new Float32Array(5 * 32).fill(0.5))).toBeLessThanOrEqual(1e-5);
      }
      expect([...steered.touched]).toEqual([5]);
    } finally {
      await model.dispose();
    }
  });

  it("are refused by name when there is none", async () => {
    const model = await open(fixture("tensor.pt"));
    try {
      await expect(run(model, { captures: [capture("layers.7")] })).rejects.toMatchObject({
        code: "ERR_SITE_UNKNOWN",
      });
    } finally {
      await model.dispose();
    }
  });

  it("follow the list of layers that the caller names", async () => {
    const model = await open(fixture("past.pt"), { layersPath: "layers.1.experts" }).catch((error) => error);
    // Experts add to the stream: what one returns is not what the next receives.
    expect(model).toMatchObject({ code: "ERR_LAYER_OUTPUT" });
    await expect(open(fixture("tensor.pt"), { layersPath: "nowhere" })).rejects.toMatchObject({
      code: "ERR_LAYERS_PATH",
    });
  });
});
