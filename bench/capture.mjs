// SPDX-License-Identifier: Apache-2.0
// The price of reading everything: all layers, every token, kept to the end, streamed, and to a file,
// against the same run without a capture, beside Transformers with output_hidden_states=True against its
// own plain run. Cases lie between runs of their baseline (lib/paired.mjs). A decode run includes its
// prompt of 16 tokens, which is captured too.
//
//   npm run bench:capture [-- --model NAME --dtype float32 --prefill 512 --batch 1,8,32 --steps 32
//                             --rounds 5 --seconds 50 --folder DIR --no-peer]
// --prefill 0 or --batch 0 leave that half out. The peer needs CHATSPACE_BENCH_PYTHON (or python3).
import { rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { abba, costText } from "./lib/paired.mjs";
import { benchPython, Peer } from "./lib/peer.mjs";
import { peerWeights } from "./lib/peer-weights.mjs";
import { fixed, machineLine, median, printTable } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    prefill: { type: "string", default: "512" },
    batch: { type: "string", default: "1,8,32" },
    steps: { type: "string", default: "32" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "50" },
    threads: { type: "string" },
    folder: { type: "string", default: tmpdir() },
    "no-peer": { type: "boolean", default: false },
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
    const begin = performance.now();
    if (how.startsWith("file")) {
      const path = `${target}.${how.slice(5)}`;
      await model.captureToFile(path, tokens, { ...base, sites });
      const ms = performance.now() - begin;
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
    const ms = performance.now() - begin;
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

const python = args["no-peer"] ? null : benchPython();
const weights = python === null ? null : peerWeights(args.model);
const peer =
  weights === null
    ? null
    : new Peer(python.python, "transformers_peer.py", { OMP_NUM_THREADS: `${threads}` });
if (peer !== null) await peer.ask({ do: "load", model: weights, dtype: args.dtype, threads });

console.log(machineLine(addon));
console.log(
  `${args.model} ${args.dtype}, ${threads} threads, ${layers} layers, cases between runs of their baseline, at most ` +
    `${args.rounds} rounds; median and 95 % interval of the ratios; ${peer === null ? "no peer" : `peer: transformers ${python.version}`}`,
);

const works = [];
if (args.prefill !== "0") works.push([`prefill of ${args.prefill} tokens`, 1, Number(args.prefill), 0]);
for (const batch of args.batch.split(",").map(Number))
  if (batch > 0) works.push([`decode of ${steps} tokens, batch ${batch}`, batch, 16, steps]);

const table = [];
for (const [name, batch, length, maxTokens] of works) {
  const tokens = prompts(batch, length, vocabSize).map((ids) => Int32Array.from(ids));
  const hows = ["none", "memory", "stream", "mean", "file safetensors", "file arrow"];
  const cases = Object.fromEntries(hows.map((how) => [how, ours(tokens, maxTokens, how)]));
  await cases.memory();
  const limits = { rounds: Number(args.rounds), seconds: Number(args.seconds) / works.length };
  const measured = await abba({ baseline: cases.none, cases, ...limits });
  const count = tokens.reduce((sum, ids) => sum + ids.length + Math.max(0, maxTokens - 1), 0);
  const line = (who, baseline, rounds, how, ratios) => [
    `${name}, ${how}`,
    who,
    fixed((count * 1000) / median(baseline)),
    costText(ratios),
    rounds,
  ];
  for (const [how, { ratios }] of Object.entries(measured.cases))
    table.push(line("ours", measured.baseline, measured.rounds, how, ratios));
  if (peer === null) continue;
  const theirs = (hidden) => async () => {
    const ids = tokens.map((each) => Array.from(each));
    const answer = await peer.ask({
      do: "run",
      tokens: ids,
      steps: Math.max(1, maxTokens),
      layers: [],
      hidden,
    });
    return answer.promptMs + answer.generateMs;
  };
  await theirs(true)();
  const other = await abba({ baseline: theirs(false), cases: { memory: theirs(true) }, ...limits });
  table.push(line("transformers", other.baseline, other.rounds, "memory", other.cases.memory.ratios));
}
printTable(["work and capture", "who", "plain tok/s", "cost against plain", "rounds"], table);
peer?.close();
await model.dispose();
