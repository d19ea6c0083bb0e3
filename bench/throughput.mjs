// SPDX-License-Identifier: Apache-2.0
// Decode throughput at several batch sizes, unsteered and steered, beside Hugging Face Transformers with
// forward hooks and llama.cpp with a control vector: the same weights at the same bits, in turns in one run.
//
//   npm run bench:throughput [-- --dtypes float32,bfloat16 --batches 1,4,16,64 --seconds 280 --rounds 5
//                                --model NAME --prompt 8 --threads 2 --quick --save
//                                --without transformers,llama,prebuilt]
//
// Peers, each left out (and named) when it is not there:
//   Transformers   CHATSPACE_BENCH_PYTHON (or python3) with torch and transformers
//   llama.cpp      CHATSPACE_BENCH_LLAMA_PYTHON: built with llama-cpp-python; how: peers/llama_cpp_peer.py
//   node-llama-cpp CHATSPACE_BENCH_LLAMA: a folder with it in node_modules; prebuilt, has no control vectors
//
// Method. Greedy decode of N sequences in lockstep after short prompts; measured is the decode step at full
// batch, loading, prompts, program set-up outside the clock on every side. Each round runs the sides forth
// and back (lib/paired.mjs); a ratio is of one round, the table shows the median and 95 % interval (under five
// rounds: the range). A side's number of steps is chosen for about a second. How many of the greedy tokens are
// equal to ours is shown, because a peer that does something else is no peer; in bfloat16 roundings differ and
// so do tokens after a while.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { loadAddon } from "../dist/native/loader.js";
import { writeVariant } from "../scripts/lib/gguf-variant.mjs";
import { LlamaControlVector, LlamaPrebuilt, Ours, Transformers } from "./lib/engines.mjs";
import { mirrored, seeded, summary } from "./lib/paired.mjs";
import { benchPython } from "./lib/peer.mjs";
import { peerWeights } from "./lib/peer-weights.mjs";
import { publish } from "./lib/report.mjs";
import { fixed, median } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtypes: { type: "string" },
    batches: { type: "string" },
    prompt: { type: "string", default: "8" },
    threads: { type: "string" },
    seconds: { type: "string" },
    rounds: { type: "string", default: "5" },
    without: { type: "string", default: "" },
    quick: { type: "boolean", default: false },
    save: { type: "boolean", default: false },
  },
});
const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const dtypes = (args.dtypes ?? (args.quick ? "float32" : "float32,bfloat16")).split(",");
const batches = (args.batches ?? (args.quick ? "1,4" : "1,4,16,64")).split(",").map(Number);
const seconds = Number(args.seconds ?? (args.quick ? 40 : 280));
const prompt = Number(args.prompt);
const MOST_STEPS = 32;
const runMs = args.quick ? 300 : 700;
const folder = mkdtempSync(join(tmpdir(), "chatspace-throughput-"));
const weights = peerWeights(args.model);
const PEERS = {
  "Transformers (CHATSPACE_BENCH_PYTHON)": Transformers,
  "llama.cpp with a control vector (CHATSPACE_BENCH_LLAMA_PYTHON)": LlamaControlVector,
  "node-llama-cpp (CHATSPACE_BENCH_LLAMA)": LlamaPrebuilt,
};
const TYPES = { float32: "F32", bfloat16: "BF16", float16: "F16" };
const python = benchPython();
const written = new Set();
const sides = openSides();
const tables = [];
const began = performance.now();

try {
  for (const dtype of dtypes) tables.push({ caption: dtype, ...(await measure(dtype)) });
  report();
} finally {
  for (const side of sides) await side.close();
  rmSync(folder, { recursive: true, force: true });
}

function openSides() {
  const without = args.without.split(",");
  const wanted = (name, there) => there && weights !== null && !without.includes(name);
  const llamaPython = process.env.CHATSPACE_BENCH_LLAMA_PYTHON;
  const llamaFolder = process.env.CHATSPACE_BENCH_LLAMA;
  const gguf = weights?.endsWith(".gguf");
  return [
    new Ours(args.model, threads),
    ...(wanted("transformers", python) ? [new Transformers(python.python, weights, threads)] : []),
    ...(wanted("llama", llamaPython && gguf) ? [new LlamaControlVector(llamaPython, variant, threads)] : []),
    ...(wanted("prebuilt", llamaFolder && gguf) ? [new LlamaPrebuilt(llamaFolder, variant, threads)] : []),
  ];
}

function variant(dtype) {
  const file = join(folder, `${dtype}.gguf`);
  if (!written.has(dtype)) writeVariant(weights, file, { type: TYPES[dtype] });
  written.add(dtype);
  return file;
}

async function measure(dtype) {
  const length = prompt + MOST_STEPS + 1;
  for (const side of sides) await side.load({ dtype, batches, prompt, length });
  const { layers, hiddenSize, vocabSize } = sides[0].info;
  const every = Array.from({ length: layers }, (_, layer) => layer);
  const vectors = makeVectors(Math.max(...batches), hiddenSize, 4);
  // Once only: long enough that the text changes, or equal tokens would prove nothing.
  const [long] = makeVectors(1, hiddenSize, 60);
  const cases = {
    unsteered: { layers: [], vectors: () => [] },
    "one add at one layer": { layers: [layers >> 1], vectors: () => [long] },
    [`adds at all ${layers} layers`]: { layers: every, vectors: () => vectors.slice(0, 1) },
    "a different program per request": { layers: every, vectors: (batch) => vectors.slice(0, batch) },
  };
  const rows = [];
  let left = dtypes.length * batches.length * 4 - tables.length * batches.length * 4;
  for (const batch of batches) {
    const tokens = prompts(batch, prompt, vocabSize);
    for (const side of sides) await side.open({ batch });
    for (const [name, { layers: at, vectors: of }] of Object.entries(cases)) {
      // At batch 1 "per request" is the case before.
      if (batch === 1 && of(2).length > 1) continue;
      const remaining = seconds - (performance.now() - began) / 1000;
      const share = Math.max(0, remaining / left--);
      const work = { tokens, layers: at, vectors: of(batch) };
      rows.push([`batch ${batch}: ${name}`, ...(await compare(batch, work, share))]);
      process.stderr.write(`${dtype}, ${rows.at(-1).join(" | ")}\n`);
    }
  }
  return { header: header(), rows };
}

/** Cells of one row: tok/s of ours, and for each peer its tok/s, our ratio, equal tokens. */
async function compare(batch, work, share) {
  const made = {};
  const runs = {};
  for (const side of sides) {
    // Warms the side up, and tells how many steps fit.
    const first = await side.run({ ...work, steps: 3 });
    const steps = first && Math.min(MOST_STEPS, Math.max(3, Math.round(runMs / first.stepMs)));
    runs[side.name] = async () => {
      if (first === null) return null;
      const answer = await side.run({ ...work, steps });
      made[side.name] = answer.made;
      return answer.stepMs;
    };
  }
  const measured = await mirrored({ sides: runs, rounds: Number(args.rounds), seconds: share });
  const rate = (costs) => (batch * 1000) / median(costs);
  const [ours, ...peers] = sides.map((side) => ({ side, costs: measured.sides[side.name] }));
  const cells = [fixed(rate(ours.costs))];
  for (const { side, costs } of peers) {
    if (costs === null) {
      cells.push("-", "-", "-");
      continue;
    }
    const ratio = summary(costs.map((cost, i) => cost / ours.costs[i]));
    const reference = await sameLayers(side, work, made[ours.side.name]);
    cells.push(
      fixed(rate(costs)),
      `${fixed(ratio.median, 2)}x${costs.length > 1 ? ` (${fixed(ratio.low, 2)} to ${fixed(ratio.high, 2)})` : ""}`,
      `${fixed(100 * equalTokens(reference, made[side.name]), 0)} %`,
    );
  }
  return [...cells, measured.rounds];
}

/** Tokens of ours to compare a side's with: made anew, outside the clock, where the side lacks a layer. */
async function sameLayers(side, work, made) {
  const layers = work.layers.filter((layer) => layer >= (side.firstLayer ?? 0));
  if (layers.length === work.layers.length) return made;
  return (await sides[0].run({ ...work, layers, steps: made[0].length - 1 })).made;
}

function header() {
  const peers = sides.slice(1).flatMap(({ name }) => [name, "we are", "same tokens"]);
  return ["decode tok/s", "ours", ...peers, "rounds"];
}

/** Share of the tokens both have that are equal, up to the first that differs in each sequence. */
function equalTokens(ours, theirs) {
  let [equal, all] = [0, 0];
  ours.forEach((ids, i) => {
    const length = Math.min(ids.length, theirs[i].length);
    const differs = ids.slice(0, length).findIndex((id, at) => id !== theirs[i][at]);
    equal += differs < 0 ? length : differs;
    all += length;
  });
  return equal / all;
}

function makeVectors(count, width, norm) {
  const random = seeded(3);
  return Array.from({ length: count }, () => {
    const values = Float32Array.from({ length: width }, () => random() + random() + random() - 1.5);
    const factor = norm / Math.hypot(...values);
    return values.map((value) => value * factor);
  });
}

/** "CPU : AVX2 = 1 | FMA = 1 |" as "AVX2 FMA". */
function features(system) {
  return [...system.matchAll(/(\w+) = 1/g)].map((match) => match[1]).join(" ");
}

function report() {
  const llama = sides.find((side) => side instanceof LlamaControlVector);
  const prebuilt = sides.find((side) => side instanceof LlamaPrebuilt);
  const absent = Object.entries(PEERS)
    .filter(([, kind]) => !sides.some((side) => side instanceof kind))
    .map(([how]) => how);
  publish(
    {
      ...{ name: "throughput", addon, tables },
      lines: [
        `${basename(args.model)}, ${threads} threads, prompt ${prompt}, greedy, decode steps at full batch, all sides in turns`,
      ],
      notes: [
        ...(python ? [`Transformers ${python.version}: a loop over model(...) with forward hooks`] : []),
        ...(llama
          ? [
              `llama.cpp of llama-cpp-python ${llama.build.version}, built for this machine (${features(llama.build.system)}): one control vector a context, so it cannot give requests different programs; it has none for layer 0, so all layers are one less there (and for its "same tokens" in ours)`,
            ]
          : []),
        ...(prebuilt
          ? [`node-llama-cpp (llama.cpp ${prebuilt.build.release}), prebuilt: no control vectors`]
          : []),
        ...(absent.length > 0 ? [`left out: ${absent.join("; ")}`] : []),
        '"same tokens": share of greedy tokens equal to ours up to the first difference',
      ],
    },
    { save: args.save && !args.quick },
  );
}
