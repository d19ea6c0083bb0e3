// SPDX-License-Identifier: Apache-2.0
// Gates, probes and reductions in strangers' archives, with a past and without: sites are ordered as the
// forward passes them, and rows that are run again are neither counted nor read again.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { fixture, golden } from "./foreign-world.ts";
import { dot, unit, wave } from "./steering-formulas.ts";

describe.each(["tensor", "tuple", "pair", "past", "llama", "llama-past"])("archive %s", (name) => {
  const reference = golden(name.replace("-past", ""));
  const { width } = reference;
  const direction = wave(2, width);
  const vector = wave(1, width).map((x) => x * 1e-5);
  const prompt = { tokens: Int32Array.from(reference.ids) };
  const options = { maxTokens: 6, ignoreEos: true };
  let model: SteerModel;
  beforeAll(async () => {
    model = await SteerModel.load(fixture(`${name}.pt`), { device: "cpu" });
  });
  afterAll(() => model?.dispose());

  test("a gate at an earlier layer opens for the rows it should, in prompt and generation", async () => {
    const capture = { sites: [0, 2] };
    const plain = await model.generate(prompt, { ...options, capture });
    for (const layer of [0, 2]) {
      const { data, shape } = plain.captures![`layers.${layer}`]!;
      const values = Array.from({ length: shape[0] }, (_, r) =>
        dot(data.subarray(r * width, (r + 1) * width), unit(direction)),
      );
      const sorted = values.toSorted((a, b) => a - b);
      const middle = sorted.length >> 1;
      const threshold = (sorted[middle - 1]! + sorted[middle]!) / 2;
      const gate = { layer, direction, threshold };
      const gated = await model.generate(prompt, { ...options, steering: [{ layer: 2, vector, gate }] });
      expect(Array.from(gated.tokens)).toEqual(Array.from(plain.tokens));
      expect(gated.steering[0]!.rows).toBe(sorted.length - middle);
    }
  });

  test("a gate at a later site is refused", async () => {
    const gate = { layer: 2, direction, threshold: 0 };
    await expect(model.forward(prompt, { steering: [{ layer: 1, vector, gate }] })).rejects.toMatchObject({
      code: "ERR_GATE_ORDER",
    });
  });

  test("probes read each row once, and a latch decides once", async () => {
    const probes = [{ name: "p", layer: 1, direction }];
    const directions = { sites: [1], reduce: { directions: [direction] } };
    const {
      probes: read,
      captures,
      usage,
    } = await model.generate(prompt, { ...options, probes, capture: directions });
    expect(read!.p!.values.length).toBe(usage.promptTokens + 5);
    expect(Array.from(captures!["layers.1"]!.data)).toEqual(Array.from(read!.p!.values));
    const value = read!.p!.values[usage.promptTokens - 1]! / Math.hypot(...direction);
    for (const [threshold, rows] of [
      [value - 1e-3, 5],
      [value + 1e-3, 0],
    ] as const) {
      const gate = { layer: 1, direction, threshold, latch: "prompt" as const };
      const latched = await model.generate(prompt, { ...options, steering: [{ layer: 0, vector, gate }] });
      expect(latched.steering[0]!.rows).toBe(rows);
    }
  });

  test("a logit lens needs an archive of our own", async () => {
    const capture = { sites: [1], reduce: { lens: 2 } };
    await expect(model.forward(prompt, { capture })).rejects.toMatchObject({ code: "ERR_REDUCER" });
  });
});
