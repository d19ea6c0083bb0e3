#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// What a dtype or a quantisation costs: perplexity, distance of the next-token distributions from float32,
// and whether the same steering vector still does the same. Prints Markdown tables and writes them into
// docs/numerics.md between its markers.
//
//   node scripts/numerics.mjs [--windows 32] [--tokens 512] [--kl-windows 8] [--kl-tokens 160]
//                             [--models stories260k,default,off-grid] [--print]
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { machineLine } from "../bench/lib/table.mjs";
import { contrastVector } from "../dist/cli/smoke-run.js";
import { resolveVector, SteerModel } from "../dist/index.js";
import { cacheFolder } from "../dist/model/cache-folder.js";
import { DEFAULT_MODEL, MODEL_CATALOG, resolveModel } from "../dist/model/store.js";
import { loadAddon } from "../dist/native/loader.js";
import { writeVariant } from "./lib/gguf-variant.mjs";

const { values: args } = parseArgs({
  options: {
    models: { type: "string", default: "default,off-grid,stories260k" },
    windows: { type: "string", default: "32" },
    tokens: { type: "string", default: "512" },
    "kl-windows": { type: "string", default: "8" },
    "kl-tokens": { type: "string", default: "160" },
    print: { type: "boolean", default: false },
  },
});
const windows = Number(args.windows);
const klWindows = Number(args["kl-windows"]);
const klTokens = Number(args["kl-tokens"]);

const FORMATS = {
  float32: { dtype: "float32", quantize: "none" },
  bfloat16: { dtype: "bfloat16", quantize: "none" },
  float16: { dtype: "float16", quantize: "none" },
  stored: { dtype: "float32", quantize: "stored" },
  "stored, int16 activations": { dtype: "float32", quantize: "stored", activations: "int16" },
  int8: { dtype: "float32", quantize: "int8", activations: "float32" },
  "int8, int16 activations": { dtype: "float32", quantize: "int8", activations: "int16" },
  int4: { dtype: "float32", quantize: "int4", activations: "float32" },
  "int4, int16 activations": { dtype: "float32", quantize: "int4", activations: "int16" },
};
const INTEGER = ["int8", "int8, int16 activations", "int4", "int4, int16 activations"];
const PROMPTS = [
  "Today I feel",
  "The weather this morning is",
  "My neighbour told me that",
  "When the letter came, she",
];
const shared = (file) => fileURLToPath(new URL(`../../shared/data/${file}`, import.meta.url));

const CASES = {
  default: {
    title: `${DEFAULT_MODEL} (source: GGUF Q4_1, embedding and head Q8_0), WikiText-2`,
    note: "`int4` finds the grid of a source that is Q4_1 already; the next table has the price of int4.",
    text: wikiText,
    formats: ["float32", "bfloat16", "float16", "stored", "stored, int16 activations", ...INTEGER],
    layer: 16,
    scale: 2,
    open: async () => ({ path: await resolveModel(DEFAULT_MODEL), vector: await resolveVector("happy") }),
  },
  "off-grid": {
    title: `${DEFAULT_MODEL}, the same function by float32 weights off the Q4_1 grid, WikiText-2`,
    note:
      "No full-precision checkpoint of this model is in reach of the script, so its channels are rescaled by random " +
      "factors that cancel (exp(n/8), see scripts/lib/gguf-variant.mjs): what int4 costs a model that was never quantised.",
    text: wikiText,
    formats: ["float32", "bfloat16", ...INTEGER],
    layer: 16,
    scale: 2,
    open: openOffGrid,
  },
  stories260k: {
    title: "stories260k (source: float32 safetensors, hidden size 64), TinyStories",
    note: "A model of 260 thousand weights has no redundancy to lose; blocks of 32 are half of its rows.",
    text: () =>
      JSON.parse(fs.readFileSync(shared("tinystories-sample/tinystories_100.json"), "utf8")).join("\n\n"),
    formats: ["float32", "bfloat16", "float16", ...INTEGER],
    layer: 2,
    scale: 1,
    open: async () => ({ path: await resolveModel("stories260k"), vector: null }),
  },
};

const names = args.models.split(",");
const unknown = names.find((name) => !Object.hasOwn(CASES, name));
if (unknown !== undefined)
  throw new Error(`--models: expected of ${Object.keys(CASES).join(", ")}, got ${unknown}`);
for (const name of names) {
  const { title, note, ...rest } = CASES[name];
  const table = await measureCase({ title, ...rest });
  console.log(`${table}\n`);
  // A run that is cut short keeps what it has.
  if (!args.print) write(name, `${table}\n\n${note} (${machineLine(loadAddon())})`);
}

async function measureCase({ title, text, formats, layer, scale, open }) {
  const { path: file, vector: named, close } = await open();
  const rows = [];
  let reference = null;
  let tokens;
  for (const format of formats) {
    const begin = performance.now();
    const model = await SteerModel.load(file, {
      ...FORMATS[format],
      device: "cpu",
      cacheBytes: 1 << 28,
      maxBatch: 4,
    });
    const length = Math.min(Number(args.tokens), model.info.contextLength >> 1);
    tokens ??= cut(model.tokenizer.encode(text()), length, windows);
    const vector =
      reference?.vector ?? named ?? (await contrastVector(model, layer, AbortSignal.timeout(60_000)));
    const result = await measure(model, tokens, reference, { layer, scale, vector });
    reference ??= { ...result, vector };
    rows.push([format, model.info.weightBytes, result, reference]);
    await model.dispose();
    process.stderr.write(
      `${title.slice(0, 30)} ${format}: ${((performance.now() - begin) / 1000).toFixed(0)} s\n`,
    );
  }
  close?.();
  const positions = reference.logits.length / reference.vocab;
  const sizes = `${tokens.length} windows of ${tokens[0].length} tokens; KL over ${positions} positions, full vocabulary`;
  return [`**${title}** (${sizes}; vector at layer ${layer}, scale ${scale})`, "", markdown(rows)].join("\n");
}

/** One format: perplexity, distance from the reference, and what the vector does. */
async function measure(model, tokens, reference, { layer, scale, vector }) {
  let nll = 0;
  for (const window of tokens) nll += (await model.score({ tokens: window })).meanNll / tokens.length;
  const vocab = model.info.vocabSize;
  const logits = new Float32Array(klWindows * klTokens * vocab);
  for (let i = 0; i < klWindows; i++) {
    const pass = await model.forward({ tokens: tokens[i].slice(0, klTokens) }, { logits: "all" });
    logits.set(pass.logits, i * klTokens * vocab);
  }
  const steering = [{ layer, vector, scale }];
  const answers = reference?.answers ?? (await answersOf(model));
  let shift = 0;
  for (const { ids, from } of answers) {
    const mean = async (options) =>
      average((await model.score({ tokens: ids }, options)).logprobs.subarray(from));
    shift += ((await mean({ steering })) - (await mean({}))) / answers.length;
  }
  const change = await siteChange(model, answers[0].ids, steering[0]);
  const distance = reference ? compare(reference.logits, logits, vocab) : null;
  return {
    perplexity: Math.exp(nll),
    vocab,
    distance,
    shift,
    change,
    answers,
    ...(reference ? {} : { logits }),
  };
}

async function answersOf(model) {
  const results = await model.generate(PROMPTS, { maxTokens: 32, temperature: 0, ignoreEos: true });
  return results.map(({ promptTokens, tokens }) => ({
    ids: Int32Array.from([...promptTokens, ...tokens]),
    from: promptTokens.length,
  }));
}

/** max |(h' - h) - s v| / |s v| over the rows of a prompt, read at the site with and without the vector. */
async function siteChange(model, ids, operation) {
  const { layer, vector, scale } = operation;
  const capture = { sites: [layer] };
  const read = async (options) =>
    Object.values(
      (await model.forward({ tokens: ids }, { ...options, capture, logits: "none" })).captures,
    )[0];
  const plain = await read({});
  const steered = await read({ steering: [operation] });
  const [rows, width] = plain.shape;
  const direction = vector.at(layer);
  let worst = 0;
  for (let row = 0; row < rows; row++) {
    let error = 0;
    let asked = 0;
    for (let i = 0; i < width; i++) {
      const want = scale * direction[i];
      error += (steered.data[row * width + i] - plain.data[row * width + i] - want) ** 2;
      asked += want ** 2;
    }
    worst = Math.max(worst, Math.sqrt(error / asked));
  }
  return worst;
}

/** KL(reference || other) in nats, agreement of the likeliest token, logit error. */
function compare(reference, other, vocab) {
  const positions = reference.length / vocab;
  const kls = [];
  let same = 0;
  let largest = 0;
  let squares = 0;
  for (let row = 0; row < positions; row++) {
    const p = reference.subarray(row * vocab, (row + 1) * vocab);
    const q = other.subarray(row * vocab, (row + 1) * vocab);
    const [bestP, logP] = normaliser(p);
    const [bestQ, logQ] = normaliser(q);
    if (bestP === bestQ) same++;
    let kl = 0;
    for (let i = 0; i < vocab; i++) {
      const logProbability = p[i] - logP;
      kl += Math.exp(logProbability) * (logProbability - (q[i] - logQ));
      const error = Math.abs(p[i] - q[i]);
      if (error > largest) largest = error;
      squares += error * error;
    }
    kls.push(kl);
  }
  return { kl: average(kls), top1: same / positions, largest, rms: Math.sqrt(squares / reference.length) };
}

function normaliser(row) {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i;
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i] - row[best]);
  return [best, row[best] + Math.log(sum)];
}

function markdown(rows) {
  const header = [
    "weights",
    "MB",
    "perplexity",
    "KL from float32",
    "top-1 same",
    "logit error max / rms",
    "vector at the site",
    "its effect, nats/token",
  ];
  const lines = rows.map(([format, bytes, { perplexity, distance, change, shift }]) => [
    format,
    (bytes / 1e6).toFixed(1),
    perplexity.toFixed(3),
    distance ? small(distance.kl) : "-",
    distance ? `${(100 * distance.top1).toFixed(2)} %` : "-",
    distance ? `${distance.largest.toPrecision(2)} / ${distance.rms.toPrecision(2)}` : "-",
    change.toExponential(1),
    shift.toFixed(4),
  ]);
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(header), `|---|${"---:|".repeat(header.length - 1)}`, ...lines.map(line)].join("\n");
}

// Sums of rounding may end a little below zero.
function small(value) {
  return Math.abs(value) < 1e-9 ? "0" : value < 1e-3 ? value.toExponential(1) : value.toFixed(4);
}

function average(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

/** Windows that follow each other from the start. */
function cut(ids, length, count) {
  const all = Array.from({ length: Math.floor(ids.length / length) }, (_, i) =>
    ids.slice(i * length, (i + 1) * length),
  );
  return all.slice(0, count);
}

function wikiText() {
  // Enough for the windows; encoding all of it takes a second or two.
  return fs.readFileSync(shared("wikitext-2/test.txt"), "utf8").slice(0, 8 * windows * Number(args.tokens));
}

async function openOffGrid() {
  await resolveModel(DEFAULT_MODEL);
  const origin = MODEL_CATALOG.find(({ name }) => name === DEFAULT_MODEL).origin;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "chatspace-numerics-"));
  const gguf = path.join(folder, "off-grid.gguf");
  writeVariant(path.join(cacheFolder(), "sources", origin.file), gguf, { type: "F32", offGrid: true });
  const archive = await resolveModel(gguf, { cache: folder });
  fs.rmSync(gguf);
  const close = () => fs.rmSync(folder, { recursive: true, force: true });
  return { path: archive, vector: await resolveVector("happy"), close };
}

/** Puts a case's table between its markers. */
function write(name, text) {
  const file = fileURLToPath(new URL("../docs/numerics.md", import.meta.url));
  const [start, end] = [`<!-- numerics ${name} -->`, "<!-- end -->"];
  const document = fs.readFileSync(file, "utf8");
  const from = document.indexOf(start);
  const to = document.indexOf(end, from);
  if (from < 0 || to < 0) throw new Error(`${file}: expected ${start} and after it ${end}`);
  fs.writeFileSync(file, `${document.slice(0, from)}${start}\n${text}\n${document.slice(to)}`);
}
