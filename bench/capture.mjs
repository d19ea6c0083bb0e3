// SPDX-License-Identifier: Apache-2.0
// The price of reading everything: all layers of every token, kept to the end, streamed, pooled, and to a file,
// beside Transformers with output_hidden_states=True.
//
//   npm run bench:capture [-- --work prefill,1,8,32 --how memory,stream,mean,"file safetensors" --seconds 120
//                             --model NAME --dtype float32 --folder DIR --no-peer --save --add]
// --work: the prompt pass in steps of --chunk (64) tokens, or decode of so many requests. --seconds is for each of them,
// a quarter of it for the peer, which needs CHATSPACE_BENCH_PYTHON (or python3) with torch and transformers.
// --save keeps the tables in bench/results, --add adds to those kept there.
//
// Method. Of the steps of one run every other one is captured, by the capture's positions, and compared with those
// beside it (lib/alternate.mjs; lib/capture-runs.mjs says what of it is blocks of steps and why). What is left for
// the end of the run, handing rows over or writing them, is told apart, per MB, less what the end of a plain run
// takes; "with the end" adds it to the step's processor time. The peer's steps alternate in the same way.
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { cpuRatios, letters, STRETCH, samplesOf, wallRatios } from "./lib/alternate.mjs";
import { BatchRunner } from "./lib/batch-run.mjs";
import { BLOCK, CaptureRuns } from "./lib/capture-runs.mjs";
import { costText, summary } from "./lib/paired.mjs";
import { benchPython, Peer } from "./lib/peer.mjs";
import { peerWeights } from "./lib/peer-weights.mjs";
import { publish } from "./lib/report.mjs";
import { gather, kept, packed } from "./lib/samples.mjs";
import { fixed, median } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    work: { type: "string", default: "prefill,1,8,32" },
    how: { type: "string", default: "memory,stream,mean,file safetensors,file arrow" },
    seconds: { type: "string", default: "120" },
    chunk: { type: "string", default: "64" },
    threads: { type: "string" },
    folder: { type: "string", default: tmpdir() },
    "no-peer": { type: "boolean", default: false },
    save: { type: "boolean", default: false },
    add: { type: "boolean", default: false },
  },
});

/** Tokens of a prompt's step. */
const CHUNK = Number(args.chunk);
/** Letters of a run: of prompt steps, and by milliseconds of a run of decode steps. */
const PREFILL_CELLS = { 1: 27, 2: 13 };
const RUN_MS = 4000;
const ONCE = ["tailMs", "tailCpuMs", "mb"];
const HOW = { stretch: STRETCH };

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const works = args.work.split(",");
const most = Math.max(1, ...works.filter((work) => work !== "prefill").map(Number));
// Requests join behind a prompt of one step (lib/batch-run.mjs): a small model needs a long one.
const budget = works.includes("prefill") ? CHUNK : 512;
const model = await SteerModel.load(args.model, {
  ...{ dtype: args.dtype, threads, tokenBudget: budget, maxBatch: most + 1 },
});
const { layers, vocabSize } = model.info;
const runner = new BatchRunner(model, budget, addon);
const runs = new CaptureRuns({
  ...{ model, addon, runner, chunk: CHUNK },
  target: join(args.folder, `capture-bench-${process.pid}`),
});
const python = args["no-peer"] ? null : benchPython();
const weights = python === null ? null : peerWeights(args.model);
const peer =
  weights === null
    ? null
    : new Peer(python.python, "transformers_peer.py", { OMP_NUM_THREADS: `${threads}` });
if (peer !== null) await peer.ask({ do: "load", model: weights, dtype: args.dtype, threads });
let seed = Date.now() & 0xffff;
try {
  for (const work of works) await measure(work);
} finally {
  peer?.close();
  await model.dispose();
}

async function measure(work) {
  const prefill = work === "prefill";
  const name = `capture-${prefill ? "prefill" : `decode-${work}`}`;
  const { isa } = addon.machine();
  const settings = { model: basename(args.model), dtype: args.dtype, threads, machine: isa, block: BLOCK };
  if (prefill) settings.chunk = CHUNK;
  const have = args.add ? kept(name, settings) : {};
  const tokens = prompts(prefill ? 1 : Number(work), prefill ? model.info.contextLength : 1, vocabSize);
  const plan = await (prefill ? prefillPlan(tokens[0]) : decodePlan(tokens));
  const hows = args.how.split(",");
  const cases = {};
  for (const how of ["none", ...hows]) cases[`ours|${how}`] = plan(how);
  await gather({
    ...{ cases, have, seconds: Number(args.seconds) * (peer === null ? 1 : 0.75) },
    onRun: (done) => process.stderr.write(`${name}: ${done}: ${have[done].length}\n`),
  });
  if (peer !== null) {
    const theirs = Object.fromEntries(
      ["none", "memory"].map((how) => [`transformers|${how}`, peerPlan(how, tokens, prefill)]),
    );
    await gather({ cases: theirs, have, seconds: Number(args.seconds) * 0.25 });
  }
  report(name, work, { have, settings });
}

/** What comes in blocks has fewer comparisons a run, and is run more often for it. */
function prefillPlan(ids) {
  return (how) => {
    const block = runs.block(how, true);
    const cells = PREFILL_CELLS[block];
    return { length: block * (cells - 2), run: () => runs.prefill(how, ids, cells) };
  };
}

async function decodePlan(tokens) {
  await runner.run({ tokens, steps: 2 });
  const { stepMs } = await runner.run({ tokens, steps: 4 });
  return (how) => {
    const block = runs.block(how, false);
    const cells = 1 + 2 * Math.min(32, Math.max(2, Math.round(RUN_MS / 2 / stepMs / block)));
    return { length: block * (cells - 2), run: () => runs.decode(how, tokens, cells) };
  };
}

/** The same of the peer: hidden states are asked for in every other call of the model. */
function peerPlan(how, tokens, prefill) {
  const cells = prefill ? PREFILL_CELLS[1] : 21;
  const run = async () => {
    const active = letters({ cells, seed: seed++ });
    const { stepMs, stepCpuMs } = await peer.ask({
      do: "alternate",
      tokens: prefill ? [tokens[0].slice(0, (2 + cells) * CHUNK)] : tokens,
      chunk: prefill ? CHUNK : 0,
      hidden: [false, false, ...active.map((letter) => letter && how === "memory")],
    });
    const steps = stepMs.slice(2).map((ms, i) => ({ ms, cpuMs: stepCpuMs[2 + i], us: {} }));
    const once = Object.fromEntries(ONCE.map((field) => [field, 0]));
    return samplesOf(steps, active, { lines: [] }).map((sample) => ({ ...sample, ...once }));
  };
  return { length: cells - 2, run };
}

function report(name, work, { have, settings }) {
  const prefill = work === "prefill";
  const rows = prefill ? CHUNK : Number(work);
  const stepMb = (rows * runs.rowBytes) / 1e6;
  const middle = (samples, of) => median(samples.map(of));
  const plain = have["ours|none"];
  const lines = Object.entries(have).map(([key, samples]) => {
    const [who, how] = key.split("|");
    const ratios = [wallRatios(samples), cpuRatios(samples)];
    const kind = [
      how === "none" ? "none at all (noise)" : how,
      ...[who, samples.length, fixed((rows * 1000) / middle(samples, ({ a }) => a))],
      ...ratios.map((each) => costText(each, HOW)),
    ];
    if (who !== "ours" || how === "none") return [...kind, "-", "-", "-"];
    const end = (field) =>
      middle(samples, (sample) => (sample[field] - middle(plain, (other) => other[field])) / sample.mb);
    const all =
      summary(ratios[1]).median - 1 + (end("tailCpuMs") * stepMb) / middle(samples, ({ cpuA }) => cpuA);
    const percent = `${all > 0 ? "+" : ""}${fixed(100 * all)} %`;
    return [...kind, fixed(end("tailMs"), 2), fixed(end("tailCpuMs"), 2), how === "mean" ? "-" : percent];
  });
  const noise = summary(wallRatios(plain), HOW);
  publish(
    {
      ...{ name, addon },
      lines: [
        `${settings.model} ${settings.dtype}, ${threads} threads, all ${layers} layers, ` +
          `${prefill ? `a prompt in steps of ${CHUNK} tokens` : `decode of ${work} at once`}, every other step captured, ${fixed(stepMb, 2)} MB each; ` +
          (python === null ? "no peer" : `peer: transformers ${python.version}, output_hidden_states=True`),
      ],
      tables: [
        {
          header: [
            "capture",
            ...["who", "comparisons", "plain tok/s", "cost of a step", "of its processor time"],
            ...["end, ms a MB", "processor ms a MB", "processor time with the end"],
          ],
          rows: lines,
        },
      ],
      notes: [
        `cost: median of the ratios of each step (stream: block of steps) to those beside it and its 95 % bootstrap interval (their range under 20); the noise's interval reaches ${fixed(100 * Math.max(noise.high - 1, 1 - noise.low))} %`,
        "end: from the last step to the answer or the finished file, fsync and rename included, less that of a plain run",
      ],
      samples: packed(settings, have, ONCE),
    },
    { save: args.save },
  );
}
