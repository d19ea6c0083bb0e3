// SPDX-License-Identifier: Apache-2.0
// What steering costs against the number of different programs in a batch, and for every operation.
//
//   npm run bench:programs [-- --table batch32|operations|batch256 (or several) --seconds 280 --rounds 99 --quick --save
//                              --model NAME --dtype float32 --threads 2 --counts 1,256 --kinds add,cap]
//
// --seconds holds for all tables of a run together; each takes one whole round at least. On two cores without
// AVX-512 a round of batch32 takes about a minute, of operations two, of batch256 three to four: give the last
// --seconds 1200 for an interval.
//
// Method. N requests decode in lockstep, greedily, every one with a program at all layers; of the N programs
// K are different, request i has program i mod K. Measured is the decode step alone, at full batch: joining,
// prompts, compiling and the vectors' making are outside the clock (lib/batch-run.mjs says how, and checks
// that all N were in every step). Each case runs A B B A against the unsteered batch (lib/paired.mjs): the
// ratio of a round is (B + B) / (A + A), the table shows the median ratio and a 95 % bootstrap interval of
// it (under five rounds: the range). The first row is the unsteered batch measured against itself in the
// same way, so it is the noise under everything below. The context is short (a few tokens), which makes a
// step cheap and steering's share of it as large as it can be. After each case the rows that were
// touched are compared with the rows that should have been: what was not applied would be cheap.
//
// The engine gives each request a compiled program of its own, so 256 requests with one program and with
// 256 programs run the same code; what can differ is memory: K x layers x width x 4 bytes of vectors.
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { BatchRunner } from "./lib/batch-run.mjs";
import { abba, costText, summary } from "./lib/paired.mjs";
import { publish } from "./lib/report.mjs";
import { makePrograms, PROGRAMS } from "./lib/steering-cases.mjs";
import { fixed, median } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    threads: { type: "string" },
    table: { type: "string", default: "batch32" },
    seconds: { type: "string", default: "280" },
    rounds: { type: "string", default: "99" },
    // Only these of a table's cases.
    counts: { type: "string" },
    kinds: { type: "string" },
    quick: { type: "boolean", default: false },
    save: { type: "boolean", default: false },
  },
});
const PROMPT = 1;
const MIX = "a different kind at each layer";
const NOISE = "none";
const doubling = (most) => Array.from({ length: Math.log2(most) + 1 }, (_, i) => 2 ** i);
const kinds = Object.keys(PROGRAMS);

/** share: of the time, when several tables are asked for. */
const TABLES = {
  batch32: { batch: 32, share: 3, cases: sweep(doubling(32), ["add", MIX]) },
  batch256: { batch: 256, share: 5, cases: [...sweep(doubling(256), ["add"]), ...sweep([1, 256], [MIX])] },
  operations: { batch: 32, share: 4, cases: kinds.flatMap((kind) => sweep([1, 32], [kind])) },
};
const QUICK = { batch: 16, share: 1, cases: sweep([1, 4, 16], ["add", MIX]) };

function sweep(counts, names) {
  return names.flatMap((kind) => counts.map((count) => ({ kind, count })));
}

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const chosen = args.quick ? { quick: QUICK } : pick(args.table.split(","));
const most = Math.max(...Object.values(chosen).map(({ batch }) => batch));
const budget = Math.max(512, most * PROMPT);
const model = await SteerModel.load(args.model, {
  ...{ dtype: args.dtype, threads, maxBatch: most + 1, tokenBudget: budget, cacheBytes: 1.5 * 2 ** 30 },
});
const { layers, hiddenSize, vocabSize } = model.info;
const every = Array.from({ length: layers }, (_, layer) => layer);
const runner = new BatchRunner(model, budget);
try {
  const shares = Object.values(chosen).reduce((sum, { share }) => sum + share, 0);
  for (const [name, table] of Object.entries(chosen)) {
    const seconds = args.quick ? 45 : (Number(args.seconds) * table.share) / shares;
    await measure(name, table, seconds);
  }
} finally {
  await model.dispose();
}

async function measure(name, { batch, cases }, seconds) {
  const tokens = prompts(batch, PROMPT, vocabSize);
  const steps = await stepsFor(tokens);
  const notes = {};
  const timed = (key, programs, perRow) => async () => {
    const answer = await runner.run({ tokens, steps, programs });
    // Prompt rows and generated ones but the last token, which is not fed back.
    const rows = batch * (PROMPT + steps) * perRow;
    if (answer.touched !== rows)
      throw new Error(`${key}: ${answer.touched} rows x operations were touched, expected ${rows}`);
    notes[key] = answer;
    return answer.stepMs;
  };
  const runs = {};
  for (const { kind, count } of cases) {
    const made = makePrograms(kind, { count, layers: every, width: hiddenSize, seed: count });
    const programs = tokens.map((_, i) => made[i % count]);
    runs[label(kind, count)] = timed(label(kind, count), programs, made[0].length);
  }
  const unsteered = timed(NOISE, undefined, 0);
  await unsteered();
  const measured = await abba({
    baseline: unsteered,
    cases: { [NOISE]: unsteered, ...runs },
    ...{ rounds: Math.min(args.quick ? 3 : 99, Number(args.rounds)), seconds },
    onRound: (done) => process.stderr.write(`${name}: round ${done}\n`),
  });
  report(name, { batch, steps, cases, measured, notes });
}

/** Steps enough for about a second, so that a run is not over before the machine has a say. */
async function stepsFor(tokens) {
  const { stepMs } = await runner.run({ tokens, steps: 3 });
  return Math.min(64, Math.max(3, Math.round((args.quick ? 500 : 1000) / stepMs)));
}

function label(kind, count) {
  return `${kind}|${count}`;
}

function report(name, { batch, steps, cases, measured, notes }) {
  const row = (shown, count, key) => {
    const { ratios, costs, baselines } = measured.cases[key];
    const perLayer = median(costs.map((cost, i) => ((cost - baselines[i]) * 1000) / layers));
    return [
      shown,
      count,
      fixed((batch * 1000) / median(costs)),
      costText(ratios),
      fixed(perLayer),
      key === NOISE ? "-" : fixed(notes[key].submitMs, 2),
      key === NOISE ? "-" : fixed(notes[key].admitMs, 2),
    ];
  };
  const noise = summary(measured.cases[NOISE].ratios);
  publish(
    {
      ...{ name: `programs-${name}`, addon },
      lines: [
        `${basename(args.model)} ${args.dtype}, ${threads} threads, ${batch} requests at once, all ${layers} layers, ${steps} decode steps a run, ${measured.rounds} rounds A B B A against the unsteered batch`,
      ],
      tables: [
        {
          header: [
            "program at every layer",
            "different programs",
            "decode tok/s",
            "cost against unsteered",
            "us a layer",
            "submit ms",
            "compile ms",
          ],
          rows: [
            row("unsteered against itself (noise)", 0, NOISE),
            ...cases.map(({ kind, count }) => row(kind, count, label(kind, count))),
          ],
        },
      ],
      notes: [
        `cost: median of the rounds' ratios and ${measured.rounds < 5 ? "their range" : "its 95 % bootstrap interval"}; differences below ${fixed(100 * Math.max(noise.high - 1, 1 - noise.low))} % are noise`,
        "us a layer: what a step takes longer, divided by the layers; submit and compile: once a request, outside the decode clock",
      ],
    },
    { save: args.save && !args.quick },
  );
}

function pick(names) {
  for (const name of names)
    if (!(name in TABLES)) throw new RangeError(`--table: expected ${Object.keys(TABLES)}, got ${name}`);
  const counts = args.counts?.split(",").map(Number);
  const wanted = args.kinds?.split(",");
  const kept = ({ kind, count }) => (counts?.includes(count) ?? true) && (wanted?.includes(kind) ?? true);
  return Object.fromEntries(
    names.map((name) => [name, { ...TABLES[name], cases: TABLES[name].cases.filter(kept) }]),
  );
}
