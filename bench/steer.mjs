// SPDX-License-Identifier: Apache-2.0
// The price of steering: the same decode with no program, one layer, all layers, every operation, and a
// batch in which every request brings its own program. Cases are run in turns within a round; the ratio
// of each round to its own unsteered run is what counts on a machine whose speed drifts.
//
//   npm run bench:steer [-- --model NAME --dtype float32 --batch 1,16 --steps 48 --rounds 5]
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { fixed, machineLine, median, printTable } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    batch: { type: "string", default: "1,16" },
    steps: { type: "string", default: "48" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string" },
  },
});

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const steps = Number(args.steps);
const model = await SteerModel.load(args.model, { dtype: args.dtype, threads });
const { layers, hiddenSize, vocabSize } = model.info;
const every = Array.from({ length: layers }, (_, layer) => layer);
const vector = (seed) => Float32Array.from({ length: hiddenSize }, (_, i) => 0.02 * Math.sin(seed + i));
const at = (op, which, seed = 1) =>
  which.map((layer) => ({
    layer,
    op,
    vector: vector(seed),
    ...(op === "cap" ? { min: -1e9, max: 1e9 } : {}),
    ...(op === "replace" ? { amount: 0.001 } : {}),
  }));
const mixed = (seed) =>
  every.flatMap((layer) => ["add", "cap", "ablate"].map((op) => at(op, [layer], seed)[0]));

const cases = {
  none: () => [],
  "add, one layer": () => at("add", [layers >> 1]),
  "add, all layers": () => at("add", every),
  "cap, all layers": () => at("cap", every),
  "ablate, all layers": () => at("ablate", every),
  "replace, all layers": () => at("replace", every),
  "add + cap + ablate, all layers": () => mixed(1),
  "own program per request, add, all layers": (i) => at("add", every, i + 1),
  "own program per request, 3 operations, all layers": (i) => mixed(i + 1),
};

async function time(tokens, program) {
  // Made before the clock starts: making vectors is the caller's work.
  const programs = tokens.map((_, i) => program(i));
  const run = async (maxTokens) => {
    const begin = performance.now();
    await Promise.all(
      tokens.map((ids, i) =>
        model.generate(Int32Array.from(ids), {
          maxTokens,
          temperature: 0,
          ignoreEos: true,
          steering: programs[i],
        }),
      ),
    );
    return performance.now() - begin;
  };
  const prompt = await run(1);
  return (await run(steps)) - prompt;
}

console.log(machineLine(addon));
console.log(
  `${args.model} ${args.dtype}, ${threads} threads, ${layers} layers, ${steps} greedy tokens, ${args.rounds} rounds in turns`,
);
const rows = [];
for (const batch of args.batch.split(",").map(Number)) {
  const tokens = prompts(batch, 16, vocabSize);
  const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
  await time(tokens, cases.none);
  for (let round = 0; round < Number(args.rounds); round++) {
    for (const [name, program] of Object.entries(cases)) times[name].push(await time(tokens, program));
  }
  for (const name of Object.keys(cases)) {
    const ratio = median(times[name].map((ms, i) => ms / times.none[i]));
    rows.push([
      `batch ${batch}: ${name}`,
      fixed((batch * (steps - 1) * 1000) / median(times[name])),
      name === "none" ? "-" : `${ratio >= 1 ? "+" : ""}${fixed((ratio - 1) * 100)} %`,
    ]);
  }
}
printTable(["case", "decode tok/s", "cost against none"], rows);
await model.dispose();
