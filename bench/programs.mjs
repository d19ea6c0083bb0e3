// SPDX-License-Identifier: Apache-2.0
// What steering costs: against the number of different programs in a batch, for every operation, and at
// batches of 1, 8 and 16.
//
//   npm run bench:programs [-- --table batch32|operations|batch256|common (or several) --seconds 360 --save --add
//                              --model NAME --dtype float32 --threads 2 --counts 1,256 --kinds add,cap --quick]
//   npm run bench:steer    the same with --table common
//
// --seconds is for each table; left out, batch32 takes 6 minutes, operations and batch256 8, common 4. --save keeps
// the table in bench/results, --add adds to the one kept there, so that a table can be measured in pieces.
//
// Method. N requests decode in lockstep, greedily, every one with a program whose operations act on every other of its
// generated positions, so that each steered step lies between two unsteered ones of the same run and the other way
// round (lib/alternate.mjs). Of the N programs K are different, request i has program i mod K. The table shows the
// median of all these comparisons with its 95 % bootstrap interval, by the wall's clock and by the processor's (of all
// threads of the process), and beside it what the engine's own counters say: the operators `steer` and `tables` (the
// tables filled and read back), of a steered step. Its first row has no program at all and the letters all the same:
// the noise. A program that acts on no token of a step costs the look at its scope, which is in steered and unsteered
// steps alike; the second row measures it by short whole runs in turns, with such a program and with none. After each
// run the rows each operation touched, counted where the arithmetic happens, must be exactly the steered steps.
// Joining, prompts, compiling and the making of vectors are outside (lib/batch-run.mjs). The context is short,
// which makes a step cheap and steering's share large.
//
// Requests whose programs are equal share one compiled program. Every request has entries of its own in a step's
// tables all the same, so what can differ is memory: K x layers x width x 4 bytes of vectors.
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { cpuRatios, STRETCH, shares, wallRatios } from "./lib/alternate.mjs";
import { BatchRunner } from "./lib/batch-run.mjs";
import { costText, shareText, summary } from "./lib/paired.mjs";
import { publish } from "./lib/report.mjs";
import { gather, kept, packed } from "./lib/samples.mjs";
import { IDLE_RUNS, idleRuns, steeredSteps } from "./lib/steered-steps.mjs";
import { makePrograms, PROGRAMS } from "./lib/steering-cases.mjs";
import { fixed, median } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    threads: { type: "string" },
    table: { type: "string", default: "batch32" },
    seconds: { type: "string" },
    // Only these of a table's cases.
    counts: { type: "string" },
    kinds: { type: "string" },
    quick: { type: "boolean", default: false },
    save: { type: "boolean", default: false },
    add: { type: "boolean", default: false },
  },
});
const PROMPT = 1;
/** Milliseconds of a run: as short as joining allows, so that every case comes up often. */
const RUN_MS = 4000;
const HOW = { stretch: STRETCH };
/** Once a request. */
const ONCE = ["submitMs", "admitMs"];
const MIX = "a different kind at each layer";
const NOISE = "none at all (noise)";
const IDLE = "one that never acts, against none";
const doubling = (most) => Array.from({ length: Math.log2(most) + 1 }, (_, i) => 2 ** i);
const sweep = (batch, counts, names) =>
  names.flatMap((kind) => counts.map((count) => ({ kind, count, batch, at: "all" })));
const common = (batch) => [
  { kind: "add", count: 1, batch, at: "one" },
  ...sweep(batch, batch === 1 ? [1] : [1, batch], ["add", "add + cap + ablate"]),
];

/** idle: with a program that never acts; a whole run of 256 requests takes long. */
const TABLES = {
  batch32: { seconds: 360, idle: true, cases: sweep(32, doubling(32), ["add", MIX]) },
  batch256: { seconds: 480, cases: [...sweep(256, doubling(256), ["add"]), ...sweep(256, [1, 256], [MIX])] },
  operations: { seconds: 480, cases: Object.keys(PROGRAMS).flatMap((kind) => sweep(32, [1, 32], [kind])) },
  common: { seconds: 240, cases: [1, 8, 16].flatMap(common) },
};
const QUICK = { seconds: 45, cases: sweep(16, [1, 4, 16], ["add", MIX]) };

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const operators = addon.profile("read").map(({ operator }) => operator);
const chosen = args.quick ? { quick: QUICK } : pick(args.table.split(","));
const most = Math.max(...Object.values(chosen).flatMap(({ cases }) => cases.map(({ batch }) => batch)));
const budget = Math.max(512, most * PROMPT);
const model = await SteerModel.load(args.model, {
  ...{ dtype: args.dtype, threads, maxBatch: most + 1, tokenBudget: budget, cacheBytes: 1.5 * 2 ** 30 },
});
const { layers, hiddenSize, vocabSize } = model.info;
const every = Array.from({ length: layers }, (_, layer) => layer);
const runner = new BatchRunner(model, budget, addon);
let seed = Date.now() & 0xffff;
try {
  for (const [name, table] of Object.entries(chosen)) await measure(name, table);
} finally {
  await model.dispose();
}

async function measure(name, { cases, seconds, idle }) {
  const settings = { model: basename(args.model), dtype: args.dtype, threads, machine: addon.machine().isa };
  const save = args.save && !args.quick;
  const have = args.add ? kept(`programs-${name}`, settings) : {};
  const runs = {};
  for (const batch of new Set(cases.map((each) => each.batch))) {
    const tokens = prompts(batch, PROMPT, vocabSize);
    await runner.run({ tokens, steps: 2 });
    const { stepMs } = await runner.run({ tokens, steps: 4 });
    const cells = 1 + 2 * Math.min(48, Math.max(5, Math.round(RUN_MS / 2 / stepMs)));
    const add = (each, length, run) => {
      runs[label(each)] = { run, length };
    };
    const stepwise = (programs) => () =>
      steeredSteps({ runner, operators, tokens, cells, programs, seed: seed++ });
    add({ batch, kind: NOISE }, cells - 2, stepwise());
    const [program] = makePrograms("add", { count: 1, layers: every, width: hiddenSize });
    if (idle)
      add({ batch, kind: IDLE }, IDLE_RUNS - 2, () =>
        idleRuns({ runner, operators, tokens, program, seed: seed++ }),
      );
    for (const each of cases.filter((other) => other.batch === batch)) {
      const at = each.at === "all" ? every : [layers >> 1];
      const made = makePrograms(each.kind, {
        count: each.count,
        layers: at,
        width: hiddenSize,
        seed: each.count,
      });
      const programs = tokens.map((_, i) => made[i % each.count]);
      add(each, cells - 2, stepwise(programs));
    }
  }
  await gather({
    ...{ cases: runs, have, seconds: Number(args.seconds ?? seconds) },
    onRun: (done) => process.stderr.write(`${name}: ${done}: ${have[done].length}\n`),
  });
  report(name, { have, settings, save });
}

function label({ batch, kind, count = 0, at = "all" }) {
  return `${batch}|${kind}|${count}|${at}`;
}

/** Of everything the table has, measured now or before. */
function report(name, { have, settings, save }) {
  const { cases } = args.quick ? QUICK : TABLES[name];
  const batches = [...new Set(cases.map(({ batch }) => batch))].filter(
    (batch) => have[label({ batch, kind: NOISE })],
  );
  const shown = ({ batch, kind, at }) =>
    `${batches.length > 1 ? `batch ${batch}: ` : ""}${kind}${at === "one" ? ", one layer" : ""}`;
  const row = (each) => {
    const samples = have[label(each)] ?? [];
    if (samples.length === 0) return null;
    const middle = (of) => median(samples.map(of));
    return [
      shown(each),
      each.count ?? 0,
      samples.length,
      fixed((each.batch * 1000) / middle(({ b }) => b)),
      costText(wallRatios(samples), HOW),
      costText(cpuRatios(samples), HOW),
      shareText(shares(samples), HOW),
      fixed(middle(({ activeUs }) => activeUs) / (each.at === "one" ? 1 : layers)),
      ...ONCE.map((field) =>
        each.count
          ? fixed(
              middle((sample) => sample[field]),
              2,
            )
          : "-",
      ),
    ];
  };
  const rows = batches.flatMap((batch) =>
    [{ batch, kind: NOISE }, { batch, kind: IDLE }, ...cases.filter((each) => each.batch === batch)].map(row),
  );
  const noise = batches.map((batch) => summary(wallRatios(have[label({ batch, kind: NOISE })]), HOW));
  const beyond = Math.max(...noise.map(({ low, high }) => Math.max(high - 1, 1 - low)));
  publish(
    {
      ...{ name: `programs-${name}`, addon },
      lines: [
        `${settings.model} ${settings.dtype}, ${threads} threads, ${batches.join(", ")} requests at once, all ${layers} layers, steered and unsteered steps alternating in one run`,
      ],
      tables: [
        {
          header: [
            "program at every layer",
            "different programs",
            "comparisons",
            "decode tok/s",
            "cost of a step",
            "of its processor time",
            "steer + tables, of the step",
            "us a layer",
            "submit ms",
            "compile ms",
          ],
          rows: rows.filter((each) => each !== null),
        },
      ],
      notes: [
        `cost: median of the ratios of each step to those beside it and its 95 % bootstrap interval (their range under 20); the noise's interval reaches ${fixed(100 * beyond)} %`,
        "steer + tables: by the engine's counters in the steered steps, and in microseconds a layer; submit and compile: once a request, outside the steps",
      ],
      samples: packed(settings, have, ONCE),
    },
    { save },
  );
}

function pick(names) {
  for (const name of names)
    if (!(name in TABLES)) throw new RangeError(`--table: expected ${Object.keys(TABLES)}, got ${name}`);
  const counts = args.counts?.split(",").map(Number);
  const wanted = args.kinds?.split(",");
  const chosenCase = ({ kind, count }) =>
    (counts?.includes(count) ?? true) && (wanted?.includes(kind) ?? true);
  return Object.fromEntries(
    names.map((name) => [name, { ...TABLES[name], cases: TABLES[name].cases.filter(chosenCase) }]),
  );
}
