// SPDX-License-Identifier: Apache-2.0
// Decode on one CUDA device with and without steering, in turns in one process; one JSON line per case on
// stdout. Run by scripts/gpu-check.mjs, which makes the table.
import { parseArgs } from "node:util";
import { SteerModel } from "../../dist/index.js";

const { values: option } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    device: { type: "string", default: "cuda:0" },
    dtypes: { type: "string", default: "float32,bfloat16" },
    batches: { type: "string", default: "1,16,64" },
    prompt: { type: "string", default: "64" },
    steps: { type: "string", default: "64" },
    rounds: { type: "string", default: "3" },
  },
});
const steps = Number(option.steps);
const rounds = Number(option.rounds);
const promptLength = Number(option.prompt);

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

for (const dtype of option.dtypes.split(",")) {
  const model = await SteerModel.load(option.model, { device: option.device, dtype });
  const { layers, hiddenSize, vocabSize } = model.info;
  const every = Array.from({ length: layers }, (_, layer) => layer);
  const program = (at, seed) =>
    at.map((layer) => ({
      layer,
      vector: Float32Array.from({ length: hiddenSize }, (_, i) => 0.02 * Math.sin(seed + i)),
    }));
  const cases = {
    "not steered": () => [],
    "one layer": () => program([layers >> 1], 1),
    "all layers": () => program(every, 1),
    "all layers, a program a request": (request) => program(every, request + 1),
  };
  for (const batch of option.batches.split(",").map(Number)) {
    // Different first tokens, so that no prefix is shared.
    const prompts = Array.from({ length: batch }, (_, b) => ({
      tokens: Array.from({ length: promptLength }, (_, i) => 10 + ((b * 131 + i * 17) % (vocabSize - 10))),
    }));
    const seconds = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
    for (let round = -1; round < rounds; round++) {
      for (const [name, steering] of Object.entries(cases)) {
        const options = prompts.map((_, i) => ({
          ...{ maxTokens: steps, temperature: 0, stopTokens: [] },
          steering: steering(i),
        }));
        const start = performance.now();
        const results = await model.generate(prompts, options);
        const taken = (performance.now() - start) / 1000;
        const tokens = results.reduce((sum, result) => sum + result.tokens.length, 0);
        if (round >= 0) seconds[name].push(taken / tokens); // round -1 warms up
      }
    }
    const plain = median(seconds["not steered"]);
    for (const [name, each] of Object.entries(seconds)) {
      const per = median(each);
      const row = { dtype, batch, case: name, tokensPerSecond: 1 / per, cost: per / plain - 1 };
      process.stdout.write(`${JSON.stringify(row)}\n`);
    }
  }
  await model.dispose();
}
