// SPDX-License-Identifier: Apache-2.0
// The default model against its reference run: eight prompts, nine programs and scopes; 64 greedy tokens,
// and for three prompts the 32 largest logits and the hidden states of six layers. Runs where the model is
// in the cache (`chatspace-steer models pull smollm2-135m-instruct`).
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import { listModels } from "../../src/model/store.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";
import { SteeringVector } from "../../src/steering/vector.ts";
import { Deviation, firstWrongToken, Golden } from "./golden.ts";

const NAME = "smollm2-135m-instruct";
const state = listModels().find((model) => model.name === NAME)?.state;
const here = Golden.has("smollm2") && (state === "ready" || state === "fetched");

describe.skipIf(!here)(`${NAME} (needs ../shared and the model in the cache)`, () => {
  const golden = here ? new Golden("smollm2") : undefined!;
  const programs: Record<string, SteeringProgram> = {};
  let model: SteerModel;

  beforeAll(async () => {
    // The 4-bit blocks as they are stored: bit-equal to their float32 copy (see the test below), and faster.
    model = await SteerModel.load(NAME, { device: "cpu", dtype: "float32", quantize: "stored" });
    const rows = golden.floats("vectors");
    const v = (layer: number) => rows.subarray(layer * 576, (layer + 1) * 576);
    const add = { layer: 16, vector: v(16), scale: 2 };
    const all = new SteeringVector({ directions: new Map(Array.from({ length: 30 }, (_, l) => [l, v(l)])) });
    Object.assign(programs, {
      plain: [],
      "add+2@16": [add],
      "add-2@16": [{ ...add, scale: -2 }],
      "cap@20": [{ layer: 20, op: "cap", vector: v(20), min: -0.317, max: 20.612 }],
      "ablate@12": [{ layer: 12, op: "ablate", vector: v(12) }],
      "add@12,cap@12,ablate@20": [
        { layer: 12, vector: v(12), scale: 1.5 },
        { layer: 12, op: "cap", vector: v(12), min: -3, max: 3 },
        { layer: 20, op: "ablate", vector: v(20) },
      ],
      "add-all": [{ vector: all, scale: 0.15 }],
      "prompt:add+2@16": [{ ...add, scope: { phase: "prompt" } }],
      "generation:add+2@16": [{ ...add, scope: { phase: "generation" } }],
    } satisfies Record<string, SteeringProgram>);
  });
  afterAll(() => model?.dispose());

  test("weights run as stored give the bits of their float32 copy", { timeout: 120_000 }, async () => {
    const dense = await SteerModel.load(NAME, { device: "cpu", dtype: "float32", quantize: "none" });
    try {
      for (const { ids } of golden.prompts.slice(0, 2)) {
        const tokens = Int32Array.from(ids);
        const ours = (await model.forward(tokens, { logits: "all" })).logits;
        const copy = (await dense.forward(tokens, { logits: "all" })).logits;
        expect(Buffer.compare(Buffer.from(ours.buffer), Buffer.from(copy.buffer))).toBe(0);
      }
      expect(model.info.weightBytes).toBeLessThan(0.2 * dense.info.weightBytes);
    } finally {
      await dense.dispose();
    }
  });

  test("token ids of the prompts, raw and by the chat template", () => {
    for (const { text, ids } of golden.prompts)
      expect(Array.from(model.tokenizer!.encode(text))).toEqual(ids);
  });

  test.each([
    "plain",
    "add+2@16",
    "add-2@16",
    "cap@20",
    "ablate@12",
    "add@12,cap@12,ablate@20",
    "add-all",
    "prompt:add+2@16",
    "generation:add+2@16",
  ])("%s", { timeout: 300_000 }, async (name) => {
    const steering = programs[name]!;
    const [top, sums, hidden, logprobs] = [
      new Deviation(),
      new Deviation(),
      new Deviation(),
      new Deviation(),
    ];
    const layers = [0, 11, 12, 16, 20, 29];
    for (let index = 0; golden.has(`${index}.${name}.hidden`); index++) {
      const { ids } = golden.prompts[index]!;
      const result = await model.forward(
        { tokens: ids },
        { steering, capture: { sites: layers }, logits: "all" },
      );
      const vocab = result.shape[1];
      const topIds = golden.integers(`${index}.${name}.top_ids`);
      const row = (i: number) => Math.floor(i / 32) * vocab;
      top.compare(
        `${index}.logits`,
        topIds.map((id, i) => result.logits[row(i) + id]!),
        golden.floats(`${index}.${name}.top_logits`),
      );
      const logsumexp = ids.map((_, i) => logSumExp(result.logits.subarray(i * vocab, (i + 1) * vocab)));
      sums.compare(`${index}.logsumexp`, logsumexp, golden.floats(`${index}.${name}.logsumexp`));
      const expected = golden.floats(`${index}.${name}.hidden`);
      layers.forEach((layer, i) => {
        const size = ids.length * 576;
        const { data } = result.captures[`layers.${layer}`]!;
        hidden.compare(`${index}.layers.${layer}`, data, expected.subarray(i * size, (i + 1) * size));
      });
    }
    const options = { maxTokens: 64, ignoreEos: true, logprobs: 0, steering };
    const results = await model.generate(
      golden.prompts.map(({ ids }) => ({ tokens: ids })),
      options,
    );
    const compared = results.map((result, index) => {
      const expected = golden.prompts[index]!.outputs[name]!;
      const { at, compared } = firstWrongToken(result.tokens, expected);
      expect({ prompt: index, firstWrongToken: at }).toEqual({ prompt: index, firstWrongToken: -1 });
      const count = Math.max(1, compared);
      logprobs.compare(
        `${index}.logprobs`,
        result.logprobs!.tokens.subarray(0, count),
        expected.logprobs.slice(0, count),
      );
      return compared;
    });
    console.log(
      `smollm2 ${name}: tokens equal ${compared.join(" ")} of 64; top logits ${top}; logsumexp ${sums}; hidden ${hidden}; logprobs ${logprobs}`,
    );
    expect(hidden.lowestCosine).toBeGreaterThanOrEqual(0.999999);
    expect(top.lowestCosine).toBeGreaterThanOrEqual(0.999999);
  });
});

function logSumExp(row: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const x of row) max = Math.max(max, x);
  let sum = 0;
  for (const x of row) sum += Math.exp(x - max);
  return max + Math.log(sum);
}
