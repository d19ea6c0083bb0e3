// SPDX-License-Identifier: Apache-2.0
// The small real model against its reference run: five prompts, five programs; logits, hidden states,
// 64 greedy tokens.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";
import { Deviation, firstWrongToken, Golden } from "./golden.ts";

describe.skipIf(!Golden.has("stories260k"))("stories260k (../shared is absent)", () => {
  const golden = new Golden("stories260k");
  const [vector, cap, ablate] = ["vector", "cap_direction", "ablate_direction"].map((n) => golden.floats(n));
  const bound = { op: "cap", vector: cap!, min: -0.5, max: 0.5 } as const;
  const programs: Record<string, SteeringProgram> = {
    plain: [],
    "add@2": [{ layer: 2, vector: vector!, scale: 1.5 }],
    "cap@3": [{ layer: 3, ...bound }],
    "ablate@1": [{ layer: 1, op: "ablate", vector: ablate! }],
    "add@1+cap@1+ablate@3": [
      { layer: 1, vector: vector!, scale: 1.5 },
      { layer: 1, ...bound },
      { layer: 3, op: "ablate", vector: ablate! },
    ],
  };
  let model: SteerModel;
  beforeAll(async () => {
    model = await SteerModel.load("stories260k", { device: "cpu", dtype: "float32" });
  });
  afterAll(() => model?.dispose());

  test("token ids of the prompts", () => {
    for (const { text, ids } of golden.prompts)
      expect(Array.from(model.tokenizer!.encode(text))).toEqual(ids);
  });

  test.each(Object.keys(programs))("%s: logits and hidden states", async (name) => {
    const [logits, hidden] = [new Deviation(), new Deviation()];
    const sites = [0, 1, 2, 3, 4];
    for (const [index, { ids }] of golden.prompts.entries()) {
      const result = await model.forward(
        { tokens: ids },
        { steering: programs[name]!, capture: { sites }, logits: "all" },
      );
      logits.compare(`${index}.logits`, result.logits, golden.floats(`${index}.${name}.logits`));
      const expected = golden.floats(`${index}.${name}.hidden`);
      const size = ids.length * 64;
      for (const layer of sites) {
        const { data, shape, positions } = result.captures[`layers.${layer}`]!;
        expect(shape).toEqual([ids.length, 64]);
        expect(Array.from(positions)).toEqual(ids.map((_, i) => i));
        hidden.compare(`${index}.layers.${layer}`, data, expected.subarray(layer * size, (layer + 1) * size));
      }
      for (const { rows } of result.steering) expect(rows).toBe(ids.length);
    }
    console.log(`stories260k ${name}: logits ${logits}; hidden ${hidden}`);
    expect(logits.worst).toBeLessThanOrEqual(1e-4);
    expect(hidden.worst).toBeLessThanOrEqual(1e-4);
    expect(Math.min(logits.lowestCosine, hidden.lowestCosine)).toBeGreaterThanOrEqual(0.999999);
  });

  test.each(Object.keys(programs))("%s: 64 greedy tokens, their text and logprobs", async (name) => {
    const logprobs = new Deviation();
    const options = { maxTokens: 64, ignoreEos: true, logprobs: 0, steering: programs[name]! };
    const results = await model.generate(
      golden.prompts.map(({ ids }) => ({ tokens: ids })),
      options,
    );
    results.forEach((result, index) => {
      const expected = golden.prompts[index]!.outputs[name]!;
      expect(firstWrongToken(result.tokens, expected)).toEqual({ at: -1, compared: 64 });
      expect(result.text.trimStart()).toBe(expected.text);
      logprobs.compare(`${index}.logprobs`, result.logprobs!.tokens, expected.logprobs);
      // The test before this one asked the same prompts: what their cached rows hold was steered then.
      for (const { rows, reusedRows } of result.steering) {
        expect(rows + reusedRows).toBe(golden.prompts[index]!.ids.length + 63);
      }
    });
    console.log(`stories260k ${name}: logprobs ${logprobs}`);
    expect(logprobs.worst).toBeLessThanOrEqual(1e-4);
  });
});
