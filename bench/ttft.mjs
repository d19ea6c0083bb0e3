// SPDX-License-Identifier: Apache-2.0
// Time to first token under load: while some requests generate, others arrive one after the other, each
// with the same system prompt and a question of its own. With and without prefix reuse, unsteered, steered
// on generation alone, and steered everywhere with one program or each with its own.
//
//   npm run bench:ttft [-- --model NAME --running 16 --system 256 --question 32 --arrivals 8]
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { fixed, machineLine, median, printTable } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "auto" },
    running: { type: "string", default: "16" },
    system: { type: "string", default: "256" },
    question: { type: "string", default: "32" },
    arrivals: { type: "string", default: "8" },
    threads: { type: "string" },
  },
});

const addon = loadAddon();
const count = (name) => Number(args[name]);
const threads = Number(args.threads ?? addon.machine().cores);
const model = await SteerModel.load(args.model, { dtype: args.dtype, threads });
const { hiddenSize, layers, vocabSize, quantize, dtype } = model.info;
const vector = (seed) => Float32Array.from({ length: hiddenSize }, (_, i) => 0.02 * Math.sin(seed + i));
const program = (seed, phase) => [{ layer: layers >> 1, vector: vector(seed), scope: { phase } }];

const cases = {
  "no reuse, unsteered": { reuse: false, steering: () => [] },
  "no reuse, steered everywhere": { reuse: false, steering: () => program(1, "all") },
  "reuse, unsteered": { reuse: true, steering: () => [] },
  "reuse, steered on generation, own program each": {
    reuse: true,
    steering: (i) => program(i, "generation"),
  },
  "reuse, steered everywhere, one program": { reuse: true, steering: () => program(1, "all") },
  "reuse, steered everywhere, own program each": { reuse: true, steering: (i) => program(10 + i, "all") },
};

/** Milliseconds until the first token, and what the engine says of the request. */
async function firstToken(prompt, options) {
  const begin = performance.now();
  const stream = model.stream(prompt, { ...options, maxTokens: 1, temperature: 0, ignoreEos: true });
  let ms = 0;
  for await (const { tokens } of stream) if (ms === 0 && tokens.length > 0) ms = performance.now() - begin;
  const { usage, timing } = await stream.result;
  return { ms, cached: usage.cachedTokens, steps: timing.queuedSteps + timing.promptSteps };
}

console.log(machineLine(addon));
console.log(
  `${args.model} ${quantize === "none" ? dtype : quantize}, ${threads} threads; ${args.running} requests generate, ` +
    `${args.arrivals} arrive one after the other: ${args.system} tokens of system prompt in common, ${args.question} of their own`,
);
const rows = [];
let seed = 1;
for (const [name, { reuse, steering }] of Object.entries(cases)) {
  // A system prompt of its own for every case: nothing is left over from the last one.
  const [system] = prompts(1, count("system"), vocabSize, ++seed * 7919);
  const questions = prompts(count("arrivals") + 1, count("question"), vocabSize, seed * 104729);
  const control = new AbortController();
  const load = prompts(count("running"), 16, vocabSize, seed * 31).map((ids) =>
    model
      .generate(Int32Array.from(ids), { maxTokens: 4000, ignoreEos: true, signal: control.signal })
      .catch(() => undefined),
  );
  while (model.stats().running < count("running") || model.stats().stepRows !== count("running"))
    await new Promise((resolve) => setTimeout(resolve, 20));
  const ask = (i) =>
    firstToken(Int32Array.from([...system, ...questions[i]]), { steering: steering(i), reusePrefix: reuse });
  const before = model.stats();
  const cold = await ask(0);
  const warm = [];
  for (let i = 1; i <= count("arrivals"); i++) warm.push(await ask(i));
  const after = model.stats();
  control.abort();
  await Promise.all(load);
  while (model.stats().running > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  rows.push([
    name,
    fixed(cold.ms, 0),
    fixed(median(warm.map((r) => r.ms)), 0),
    fixed(Math.max(...warm.map((r) => r.ms)), 0),
    median(warm.map((r) => r.steps)),
    median(warm.map((r) => r.cached)),
    fixed(((after.stepSeconds - before.stepSeconds) * 1000) / (after.steps - before.steps), 0),
  ]);
}
printTable(
  [
    "case",
    "first ms",
    "median ms",
    "worst ms",
    "steps",
    "cached tokens",
    "ms between tokens of those that generate",
  ],
  rows,
);
await model.dispose();
