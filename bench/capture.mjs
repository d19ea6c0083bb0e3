// SPDX-License-Identifier: Apache-2.0
// The price of reading everything: all layers, every token, kept to the end, streamed, and to a file,
// against the same run without a capture, beside Transformers with output_hidden_states=True against its
// own plain run. Cases lie between runs of their baseline (lib/paired.mjs). A decode run includes its
// prompt of 16 tokens, which is captured too. Beside the time on the clock stands that of the processor, of
// all threads, which neighbours on a shared machine disturb less.
//
//   npm run bench:capture [-- --work prefill,1,8,32 --model NAME --dtype float32 --length 512 --steps 32
//                             --how memory,stream --rounds 5 --seconds 45 --folder DIR --no-peer --save]
// --work: the prompt pass, or decode of so many requests. The peer needs CHATSPACE_BENCH_PYTHON (or python3).
import { rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { abba, costText, summary } from "./lib/paired.mjs";
import { benchPython, Peer } from "./lib/peer.mjs";
import { peerWeights } from "./lib/peer-weights.mjs";
import { publish } from "./lib/report.mjs";
import { fixed, median } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    work: { type: "string", default: "prefill,1,8,32" },
    how: { type: "string", default: "memory,stream,mean,file safetensors,file arrow" },
    length: { type: "string", default: "512" },
    steps: { type: "string", default: "32" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "45" },
    threads: { type: "string" },
    folder: { type: "string", default: tmpdir() },
    "no-peer": { type: "boolean", default: false },
    save: { type: "boolean", default: false },
  },
});

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const steps = Number(args.steps);
const model = await SteerModel.load(args.model, { dtype: args.dtype, threads });
const { layers, hiddenSize, vocabSize } = model.info;
const sites = Array.from({ length: layers }, (_, layer) => layer);
const target = join(args.folder, `capture-bench-${process.pid}`);

/** Runs the prompts at once; the milliseconds it took. */
function ours(tokens, maxTokens, how) {
  const base = { maxTokens, temperature: 0, ignoreEos: true, reusePrefix: false };
  return async () => {
    let bytes = 0;
    const begin = clocks();
    if (how.startsWith("file")) {
      const path = `${target}.${how.slice(5)}`;
      await model.captureToFile(path, tokens, { ...base, sites });
      const ms = since(begin);
      bytes = statSync(path).size;
      rmSync(path);
      return check(ms, bytes);
    }
    const onRows = (rows) => {
      for (const { data } of Object.values(rows)) bytes += data.byteLength;
    };
    const capture = {
      none: {},
      memory: { capture: { sites } },
      stream: { capture: { sites, onRows } },
      mean: { capture: { sites, pool: "mean" } },
    }[how];
    const options = { ...base, ...capture };
    const results = await Promise.all(
      tokens.map((ids) =>
        maxTokens > 0
          ? model.generate(ids, options)
          : model.forward(ids, { ...capture, reusePrefix: false, logits: "none" }),
      ),
    );
    const ms = since(begin);
    for (const { captures } of results)
      for (const { data } of Object.values(captures ?? {})) bytes += data.byteLength;
    return how === "none" || how === "mean" ? ms : check(ms, bytes);
  };

  /** Nothing may be missing. */
  function check(ms, bytes) {
    const rows = tokens.reduce((sum, ids) => sum + ids.length + Math.max(0, maxTokens - 1), 0);
    if (bytes < rows * layers * hiddenSize * 4) throw new Error(`${how}: ${bytes} bytes of ${rows} rows`);
    return ms;
  }
}

function clocks() {
  const { user, system } = process.cpuUsage();
  return { wall: performance.now(), cpu: (user + system) / 1000 };
}

function since(begin) {
  const now = clocks();
  return { wall: now.wall - begin.wall, cpu: now.cpu - begin.cpu };
}

/** abba() by the wall clock; what the processor spent is put in the same ratios. */
async function twoClocks({ baseline, cases, ...limits }) {
  const log = [];
  const timed = (name, run) => async () => {
    const { wall, cpu } = await run();
    log.push({ name, cpu });
    return wall;
  };
  const measured = await abba({
    baseline: timed(null, baseline),
    cases: Object.fromEntries(Object.entries(cases).map(([name, run]) => [name, timed(name, run)])),
    ...limits,
  });
  for (const each of Object.values(measured.cases)) each.cpu = [];
  // A, then B B A for each case.
  for (let i = 0; i + 3 < log.length; i += 3)
    measured.cases[log[i + 1].name].cpu.push(
      (log[i + 1].cpu + log[i + 2].cpu) / (log[i].cpu + log[i + 3].cpu),
    );
  return measured;
}

const python = args["no-peer"] ? null : benchPython();
const weights = python === null ? null : peerWeights(args.model);
const peer =
  weights === null
    ? null
    : new Peer(python.python, "transformers_peer.py", { OMP_NUM_THREADS: `${threads}` });
if (peer !== null) await peer.ask({ do: "load", model: weights, dtype: args.dtype, threads });

for (const work of args.work.split(",")) await measure(work);
peer?.close();
await model.dispose();

/** One result: a prompt of --length tokens, or `work` requests that decode --steps tokens. */
async function measure(work) {
  const prefill = work === "prefill";
  const maxTokens = prefill ? 0 : steps;
  const ids = prompts(prefill ? 1 : Number(work), prefill ? Number(args.length) : 16, vocabSize);
  const tokens = ids.map((each) => Int32Array.from(each));
  const rows = tokens.reduce((sum, each) => sum + each.length + Math.max(0, maxTokens - 1), 0);
  const limits = { rounds: Number(args.rounds) };
  const plain = ours(tokens, maxTokens, "none");
  const cases = Object.fromEntries(args.how.split(",").map((how) => [how, ours(tokens, maxTokens, how)]));
  await Object.values(cases)[0]();
  const seconds = Number(args.seconds) * (peer === null ? 1 : 0.75);
  const measured = await twoClocks({ baseline: plain, cases: { none: plain, ...cases }, ...limits, seconds });
  const lines = [];
  const add = (who, { baseline, cases: each }) => {
    for (const [how, { ratios, cpu }] of Object.entries(each)) {
      const shown = how === "none" ? "none against itself (noise)" : how;
      lines.push([
        shown,
        who,
        fixed((rows * 1000) / median(baseline)),
        costText(ratios),
        costText(cpu),
        ratios.length,
      ]);
    }
  };
  add("ours", measured);
  if (peer !== null) {
    const theirs = (hidden) => async () => {
      const request = { do: "run", tokens: ids, steps: Math.max(1, maxTokens), layers: [], hidden };
      const { promptMs, generateMs, cpuMs } = await peer.ask(request);
      return { wall: promptMs + generateMs, cpu: cpuMs };
    };
    await theirs(true)();
    const both = { none: theirs(false), memory: theirs(true) };
    add(
      "transformers",
      await twoClocks({ baseline: theirs(false), cases: both, ...limits, seconds: Number(args.seconds) / 4 }),
    );
  }
  const noise = summary(measured.cases.none.ratios);
  publish(
    {
      name: `capture-${prefill ? "prefill" : `decode-${work}`}`,
      addon,
      lines: [
        `${args.model} ${args.dtype}, ${threads} threads, all ${layers} layers, every token, ` +
          (prefill
            ? `a prompt of ${args.length} tokens`
            : `${work} ${work === "1" ? "request" : "requests at once"}, prompt 16 and ${steps} greedy tokens`) +
          `, ${((rows * layers * hiddenSize * 4) / 1e6).toFixed(1)} MB a run; ` +
          (peer === null ? "no peer" : `peer: transformers ${python.version}, output_hidden_states=True`),
      ],
      tables: [
        {
          header: ["capture", "who", "plain tok/s", "cost against plain", "of processor time", "rounds"],
          rows: lines,
        },
      ],
      notes: [
        `cost: A B B A between plain runs, median of the rounds' ratios and ${measured.rounds < 5 ? "their range" : "its 95 % bootstrap interval"}; differences below ${fixed(100 * Math.max(noise.high - 1, 1 - noise.low))} % are noise`,
      ],
    },
    { save: args.save },
  );
}
