// SPDX-License-Identifier: Apache-2.0
// What is read on the way as numbers: probes in the stream and in the result, and reductions of captures,
// each against the captured rows themselves.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { Deviation } from "./golden.ts";
import { dot, length, wave } from "./steering-formulas.ts";

const PROMPT = "Once upon a time";
const OPTIONS = { maxTokens: 10, ignoreEos: true };
const STEER = [{ layer: 2, vector: wave(1), scale: 1.5 }];
const PROBES = [
  { name: "dot", layer: 2, direction: wave(3) },
  { name: "cosine", layer: 4, direction: wave(4), cosine: true },
  { name: "inside", site: "layers.1.mlp", direction: wave(5) },
];
const SITES = ["layers.2", "layers.4", "layers.1.mlp"];

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu" });
});
afterAll(() => model?.dispose());

describe("probes", () => {
  test("are the captured state's dot and cosine, after steering, at every row", async () => {
    const result = await model.generate(PROMPT, {
      ...OPTIONS,
      steering: STEER,
      probes: PROBES,
      capture: { sites: SITES },
    });
    const deviation = new Deviation();
    for (const [i, { name, direction, cosine }] of PROBES.entries()) {
      const { values, positions, site } = result.probes![name]!;
      const { data, positions: captured } = result.captures![SITES[i]!]!;
      expect(site).toBe(SITES[i]);
      expect(Array.from(positions)).toEqual(Array.from(captured));
      expect(positions.length).toBe(result.usage.promptTokens + 9);
      const expected = Array.from(positions, (_, r) => {
        const h = data.subarray(r * 64, r * 64 + 64);
        return dot(h, direction) / (cosine ? length(h) * length(direction) : 1);
      });
      deviation.compare(name, values, expected);
    }
    console.log(`probes: ${deviation}`);
    expect(deviation.worstRelative).toBeLessThan(1e-5);
  });

  test("the stream brings the reading of the row that chose each token", async () => {
    const stream = model.stream(PROMPT, { ...OPTIONS, probes: PROBES });
    const streamed: number[] = [];
    let tokens = 0;
    for await (const chunk of stream) {
      if (chunk.tokens.length === 0) continue;
      tokens += chunk.tokens.length;
      expect(chunk.probes!.dot!.length).toBe(chunk.tokens.length);
      streamed.push(...chunk.probes!.dot!);
    }
    const { probes, usage } = await stream.result;
    expect(tokens).toBe(10);
    expect(streamed).toEqual(Array.from(probes!.dot!.values.subarray(usage.promptTokens - 1)));
  });

  test("read a prompt whose prefix is cached in full", async () => {
    const long = "Tim had a red ball. ".repeat(12);
    const cold = await model.forward(long, { probes: PROBES });
    await model.generate(long, OPTIONS);
    const warm = await model.forward(long, { probes: PROBES });
    for (const { name } of PROBES) {
      expect(warm.probes![name]!.positions.length).toBe(warm.usage.promptTokens);
      expect(Array.from(warm.probes![name]!.values)).toEqual(Array.from(cold.probes![name]!.values));
    }
  });

  test("change nothing", async () => {
    const plain = await model.forward(PROMPT, { logits: "all" });
    const probed = await model.forward(PROMPT, { logits: "all", probes: PROBES });
    expect(plain.probes).toBeUndefined();
    expect(Buffer.from(probed.logits.buffer).equals(Buffer.from(plain.logits.buffer))).toBe(true);
  });
});

describe("reductions", () => {
  const whole = async (sites: (number | string)[], options = {}) =>
    (await model.generate(PROMPT, { ...OPTIONS, steering: STEER, capture: { sites, ...options } })).captures!;

  test("directions, whole and pooled", async () => {
    const directions = [wave(3), wave(4), Array.from(wave(6))];
    for (const cosine of [false, true])
      for (const pool of ["none", "mean", "last", "first"] as const) {
        const rows = (await whole([2]))["layers.2"]!;
        const got = (await whole([2], { reduce: { directions, cosine }, pool }))["layers.2"]!;
        const each = Array.from({ length: rows.shape[0] }, (_, r) => {
          const h = rows.data.subarray(r * 64, r * 64 + 64);
          return directions.map((d) => dot(h, d) / (cosine ? length(h) * length(d) : 1));
        });
        const mean = directions.map((_, k) => each.reduce((sum, row) => sum + row[k]!, 0) / each.length);
        const expected = { none: each.flat(), mean, last: each.at(-1)!, first: each[0]! }[pool];
        const deviation = new Deviation();
        deviation.compare(`${pool} ${cosine}`, got.data, expected);
        expect(got.shape).toEqual([pool === "none" ? each.length : 1, 3]);
        expect(deviation.worstRelative, `${deviation}`).toBeLessThan(1e-5);
      }
  });

  test("the encoder of a sparse autoencoder, all features and the k largest", async () => {
    const features = 200;
    const weight = wave(7, features * 64);
    const bias = wave(8, features);
    const rows = (await whole([2]))["layers.2"]!;
    const expected = Array.from({ length: rows.shape[0] }, (_, r) => {
      const h = rows.data.subarray(r * 64, r * 64 + 64);
      return Array.from(bias, (b, f) => Math.max(0, dot(h, weight.subarray(f * 64, f * 64 + 64)) + b));
    });
    const all = (await whole([2], { reduce: { sae: { weight, bias } } }))["layers.2"]!;
    expect(all.shape).toEqual([rows.shape[0], features]);
    const deviation = new Deviation();
    deviation.compare("features", all.data, expected.flat());
    console.log(`encoder: ${deviation}`);
    expect(deviation.worstRelative).toBeLessThan(1e-5);
    const top = (await whole([2], { reduce: { sae: { weight, bias, topK: 5 } } }))["layers.2"]!;
    expect(top.shape).toEqual([rows.shape[0], 5]);
    for (const [r, row] of expected.entries()) {
      const values = top.data.subarray(r * 5, r * 5 + 5);
      const best = row.toSorted((a, b) => b - a);
      for (let k = 0; k < 5; k++) {
        expect(Math.abs(values[k]! - best[k]!)).toBeLessThan(1e-4);
        expect(Math.abs(row[top.indices![r * 5 + k]!]! - values[k]!)).toBeLessThan(1e-4);
      }
    }
  });

  test("the logit lens at the last layer is the model's own prediction", async () => {
    const last = model.info.layers - 1;
    const { logits, shape, captures } = await model.forward(PROMPT, {
      ...{ logits: "all", steering: STEER },
      capture: { sites: [1, last], reduce: { lens: 3 } },
    });
    const lens = captures[`layers.${last}`]!;
    expect(lens.shape).toEqual([shape[0], 3]);
    for (let r = 0; r < shape[0]; r++) {
      const row = Array.from(logits.subarray(r * shape[1], (r + 1) * shape[1]));
      const top = Math.max(...row);
      const logSum = top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0));
      expect(lens.indices![r * 3]).toBe(row.indexOf(top));
      for (let k = 0; k < 3; k++)
        expect(Math.abs(lens.data[r * 3 + k]! - (row[lens.indices![r * 3 + k]!]! - logSum))).toBeLessThan(
          1e-4,
        );
    }
    expect(captures["layers.1"]!.data.every((x) => x < 0)).toBe(true);
  });

  test("an encoder of NaN and a lens of too many tokens are refused", async () => {
    const weight = new Float32Array(128).fill(Number.NaN);
    await expect(
      model.forward(PROMPT, { capture: { sites: [2], reduce: { sae: { weight } } } }),
    ).rejects.toMatchObject({
      code: "ERR_VECTOR_NOT_FINITE",
    });
    const lens = model.info.vocabSize + 1;
    await expect(model.forward(PROMPT, { capture: { sites: [2], reduce: { lens } } })).rejects.toMatchObject({
      code: "ERR_REDUCER",
    });
  });
});
