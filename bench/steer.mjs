// SPDX-License-Identifier: Apache-2.0
// The price of steering at one, several and many rows: one layer, all layers, three operations a layer,
// and a batch in which every request brings its own program. (bench/programs.mjs asks how it grows with
// the number of programs, and what each operation costs.)
//
//   npm run bench:steer [-- --model NAME --dtype float32 --batch 1,16,32 --seconds 100 --rounds 99 --threads 2]
//
// Only the decode step is timed, at full batch (lib/batch-run.mjs). Every case runs A B B A against the unsteered
// batch in short runs (lib/paired.mjs): drift cancels within a round, the table shows the median of the rounds'
// ratios with a 95 % interval, and the first row measures the unsteered batch against itself: what a
// difference must exceed to mean something. The context is short, so steering's share of a step is as
// large as it gets. Rows that were touched are counted and compared after each run.
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { BatchRunner } from "./lib/batch-run.mjs";
import { abba, costText, summary } from "./lib/paired.mjs";
import { publish } from "./lib/report.mjs";
import { makePrograms } from "./lib/steering-cases.mjs";
import { fixed, median } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    batch: { type: "string", default: "1,16,32" },
    ms: { type: "string", default: "400" },
    rounds: { type: "string", default: "99" },
    seconds: { type: "string", default: "100" },
    threads: { type: "string" },
    save: { type: "boolean", default: false },
  },
});

const PROMPT = 4;
const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const batches = args.batch.split(",").map(Number);
const most = Math.max(...batches);
const budget = Math.max(512, most * PROMPT);
const model = await SteerModel.load(args.model, {
  ...{ dtype: args.dtype, threads, maxBatch: most + 1, tokenBudget: budget, cacheBytes: 2 ** 30 },
});
const { layers, hiddenSize, vocabSize } = model.info;
const every = Array.from({ length: layers }, (_, layer) => layer);
const runner = new BatchRunner(model, budget);
const rows = [];
try {
  for (const batch of batches) await measure(batch);
} finally {
  await model.dispose();
}
publish(
  {
    ...{ name: "steer", addon },
    lines: [
      `${args.model} ${args.dtype}, ${threads} threads, ${layers} layers, runs of about ${args.ms} ms, A B B A against the unsteered batch`,
    ],
    tables: [{ header: ["case", "rounds", "decode tok/s", "cost against unsteered", "us a layer"], rows }],
    notes: [
      "cost: median of the rounds' ratios and its 95 % bootstrap interval (under five rounds: the range)",
    ],
  },
  { save: args.save },
);

async function measure(batch) {
  const tokens = prompts(batch, PROMPT, vocabSize);
  const { stepMs } = await runner.run({ tokens, steps: 4 });
  const steps = Math.max(4, Math.round(Number(args.ms) / stepMs));
  const timed = (name, programs) => async () => {
    const answer = await runner.run({ tokens, steps, programs });
    const operations = programs?.reduce((sum, program) => sum + program.length, 0) ?? 0;
    if (answer.touched !== operations * (PROMPT + steps))
      throw new Error(
        `${name}: ${answer.touched} rows x operations touched, expected ${operations * (PROMPT + steps)}`,
      );
    return answer.stepMs;
  };
  const program = (kind, at, count) => {
    const made = makePrograms(kind, { count, layers: at, width: hiddenSize });
    return tokens.map((_, i) => made[i % count]);
  };
  const cases = {
    "unsteered against itself (noise)": undefined,
    "add, one layer": program("add", [layers >> 1], 1),
    "add, all layers": program("add", every, 1),
    "add + cap + ablate, all layers": program("add + cap + ablate", every, 1),
  };
  if (batch > 1) {
    cases["add, all layers, own program each"] = program("add", every, batch);
    cases["add + cap + ablate, all layers, own program each"] = program("add + cap + ablate", every, batch);
  }
  const measured = await abba({
    baseline: timed("unsteered", undefined),
    cases: Object.fromEntries(Object.entries(cases).map(([name, each]) => [name, timed(name, each)])),
    ...{ rounds: Number(args.rounds), seconds: Number(args.seconds) / batches.length },
  });
  for (const [name, { costs, baselines, ratios }] of Object.entries(measured.cases)) {
    const extra = median(costs.map((cost, i) => ((cost - baselines[i]) * 1000) / layers));
    const { median: typical } = summary(costs);
    rows.push([
      `batch ${batch}: ${name}`,
      ratios.length,
      fixed((batch * 1000) / typical),
      costText(ratios),
      fixed(extra),
    ]);
  }
}
