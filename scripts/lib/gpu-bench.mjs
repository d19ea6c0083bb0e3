// SPDX-License-Identifier: Apache-2.0
// Decode and prompts on one CUDA device, one JSON line per case on stdout, run by scripts/gpu-check.mjs, which makes the
// table: dtypes, int8 and int4, graphs against eager, reproducible mode, each with and without steering in
// turns in one process; prompts with our attention and with the library's; Hugging Face Transformers on the same device where a Python has it.
import { parseArgs } from "node:util";
import { benchPython, Peer } from "../../bench/lib/peer.mjs";
import { peerWeights } from "../../bench/lib/peer-weights.mjs";
import { inTurns, percentText } from "../../bench/lib/turns.mjs";
import { SteerModel } from "../../dist/index.js";

const { values: option } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    device: { type: "string", default: "cuda:0" },
    batches: { type: "string", default: "1,16,64" },
    prompt: { type: "string", default: "64" },
    steps: { type: "string", default: "64" },
    long: { type: "string", default: "2048" },
    rounds: { type: "string", default: "3" },
  },
});
const steps = Number(option.steps);
const rounds = Number(option.rounds);
const promptLength = Number(option.prompt);
const batches = option.batches.split(",").map(Number);

/** What is loaded for each block of rows; "as" is its name in the table. */
const loads = [
  { as: "float32", dtype: "float32", quantize: "none" },
  { as: "float32, graphs", dtype: "float32", quantize: "none", cudaGraphs: "on" },
  { as: "float32, reproducible", dtype: "float32", quantize: "none", reproducible: true },
  { as: "bfloat16", dtype: "bfloat16", quantize: "none" },
  { as: "bfloat16, graphs", dtype: "bfloat16", quantize: "none", cudaGraphs: "on" },
  { as: "bfloat16, int8", dtype: "bfloat16", quantize: "int8" },
  { as: "bfloat16, int8, graphs", dtype: "bfloat16", quantize: "int8", cudaGraphs: "on" },
  { as: "bfloat16, int4", dtype: "bfloat16", quantize: "int4" },
  { as: "bfloat16, int4, graphs", dtype: "bfloat16", quantize: "int4", cudaGraphs: "on" },
];

const print = (row) => process.stdout.write(`${JSON.stringify(row)}\n`);

const mapped = (object, each) =>
  Object.fromEntries(Object.entries(object).map(([name, value]) => [name, each(value)]));

/** Seconds a token of each case in turns; the first round warms up and records graphs. */
async function report(as, batch, cases) {
  for (const { name, per, cost } of await inTurns({ cases, rounds })) {
    print({ load: as, batch, case: name, tokensPerSecond: 1 / per, cost: percentText(cost) });
  }
}

/** Different first tokens, so that no prefix is shared. */
function promptsOf(batch, vocabSize) {
  return Array.from({ length: batch }, (_, b) =>
    Array.from({ length: promptLength }, (_, i) => 10 + ((b * 131 + i * 17) % (vocabSize - 10))),
  );
}

function casesOf({ layers, hiddenSize }) {
  const every = Array.from({ length: layers }, (_, layer) => layer);
  const program = (at, seed) =>
    at.map((layer) => ({
      layer,
      vector: Float32Array.from({ length: hiddenSize }, (_, i) => 0.02 * Math.sin(seed + i)),
    }));
  return {
    "not steered": () => [],
    "one layer": () => program([layers >> 1], 1),
    "all layers": () => program(every, 1),
    "all layers, a program a request": (request) => program(every, request + 1),
  };
}

/** Prompts alone: our attention of chunks against libtorch's, loaded side by side and run in turns. */
async function measurePrompts() {
  const models = {};
  for (const [as, flashAttention] of [
    ["bfloat16", "off"],
    ["bfloat16, flash attention", "on"],
  ])
    models[as] = await SteerModel.load(option.model, {
      ...{ device: option.device, dtype: "bfloat16", tokenBudget: 2048, flashAttention },
    });
  const { contextLength, vocabSize } = Object.values(models)[0].info;
  const longest = Math.min(Number(option.long), contextLength - 1);
  for (const length of [longest >> 3, longest >> 1, longest]) {
    const tokens = Array.from({ length }, (_, i) => 10 + ((i * 17) % (vocabSize - 10)));
    const cases = mapped(models, (model) => async () => {
      const start = performance.now();
      await model.generate({ tokens }, { maxTokens: 1, temperature: 0, reusePrefix: false });
      return (performance.now() - start) / 1000 / length;
    });
    for (const { name, per, cost } of await inTurns({ cases, rounds: 2 * rounds + 1 })) {
      const { flashLayers } = models[name].stats();
      print({
        load: name,
        prompt: length,
        promptTokensPerSecond: 1 / per,
        cost: percentText(cost),
        flashLayers,
      });
    }
  }
  for (const model of Object.values(models)) await model.dispose();
}

async function measure({ as, ...load }) {
  const model = await SteerModel.load(option.model, { device: option.device, ...load });
  const cases = casesOf(model.info);
  for (const batch of batches) {
    const prompts = promptsOf(batch, model.info.vocabSize).map((tokens) => ({ tokens }));
    const timed = (steering) => async () => {
      const options = prompts.map((_, i) => ({
        ...{ maxTokens: steps, temperature: 0, stopTokens: [] },
        steering: steering(i),
      }));
      const start = performance.now();
      const results = await model.generate(prompts, options);
      const taken = (performance.now() - start) / 1000;
      return taken / results.reduce((sum, result) => sum + result.tokens.length, 0);
    };
    await report(as, batch, mapped(cases, timed));
  }
  const { weightBytes, graphsRecorded, graphSteps, graphOverflows } = model.stats();
  print({ load: as, weightBytes, graphsRecorded, graphSteps, graphOverflows });
  const info = model.info;
  await model.dispose();
  return info;
}

/** Prompt and generation as ours are timed, steered by forward hooks on every layer as libraries do. */
async function measurePeer({ layers, vocabSize }) {
  const python = benchPython();
  const weights = peerWeights(option.model);
  if (python === null || weights === null) {
    const why =
      python === null ? "no Python with Transformers here" : `${option.model} is not here as its source`;
    print({ peer: null, reason: why });
    return;
  }
  const every = Array.from({ length: layers }, (_, layer) => layer);
  for (const dtype of ["float32", "bfloat16"]) {
    const peer = new Peer(python.python, "transformers_peer.py");
    const as = `Transformers ${python.version}, ${dtype}`;
    await peer.ask({ do: "load", model: weights, dtype, threads: 1, device: option.device });
    for (const batch of batches) {
      const tokens = promptsOf(batch, vocabSize);
      const timed = (layersSteered) => async () => {
        const answer = await peer.ask({ do: "run", tokens, steps, layers: layersSteered });
        return (answer.promptMs + answer.generateMs) / 1000 / (batch * steps);
      };
      await report(as, batch, mapped({ "not steered": [], "all layers": every }, timed));
    }
    peer.close();
  }
}

let info;
for (const load of loads) info = await measure(load);
await measurePrompts();
await measurePeer(info);
