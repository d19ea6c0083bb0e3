#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Embedding speed beside sentence-transformers, in one run: same rows, same full-precision MiniLM, same
// threads; vectors compared. Then memory over a million synthetic rows, and what a resume costs.
//
//   npm run bench:embed -- --model FOLDER --peer-model FOLDER [--python python3] [--wikitext FILE] [--rows N]
//     [--million N] [--threads N] [--repeat N]
//
// --model is what scripts/py/export_minilm_onnx.py wrote, --peer-model the sentence-transformers folder it
// was made from. The pipeline's time is that of the whole command less the start of its processes (rows a
// second are counted from the first batch to the last shard); the peer's is that of encode().
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { listShards, readShard } from "../dist/data/shards/reader.js";
import { embedDataset } from "../dist/embed/run.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    "peer-model": { type: "string" },
    python: { type: "string", default: "python3" },
    wikitext: { type: "string", default: join(root, "../shared/data/wikitext-2/test.txt") },
    rows: { type: "string", default: "600" },
    threads: { type: "string", default: String(availableParallelism()) },
    million: { type: "string", default: "1000000" },
    repeat: { type: "string", default: "3" },
    "tokens-per-batch": { type: "string" },
  },
});
const threads = Number(flags.threads);
const work = mkdtempSync(join(tmpdir(), "chatspace-bench-"));
process.on("exit", () => rmSync(work, { recursive: true, force: true }));

function seeded(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Paragraphs of WikiText-2 as they are; and a mix in which three of four rows are 3 to 12 words of them. */
function sets(count) {
  const lines = readFileSync(flags.wikitext, "utf8")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !/^=/.test(line));
  const next = seeded(11);
  const pick = () => lines[next(lines.length)];
  const uniform = [...new Set(Array.from({ length: count * 2 }, pick))].slice(0, count);
  const short = () => {
    const words = pick().split(" ");
    const start = next(Math.max(1, words.length - 12));
    return words.slice(start, start + 3 + next(10)).join(" ");
  };
  const mix = Array.from({ length: count * 4 }, (_, i) => (i % 4 === 0 ? pick() : short()));
  return { "WikiText-2 paragraphs": uniform, "short and long mixed": mix };
}

async function vectorsOf(folder) {
  const rows = [];
  for (const shard of await listShards(folder))
    for await (const batch of readShard(shard.path, ["row_id", "embedding"], { start: 0, end: shard.rows }))
      for (const row of batch.rows) rows[Number(row.row_id)] = row.embedding;
  return rows;
}

function table(rows) {
  const widths = rows[0].map((_, c) => Math.max(...rows.map((row) => row[c].length)));
  for (const row of rows)
    console.log(
      row.map((cell, c) => (c === 0 ? cell.padEnd(widths[c]) : cell.padStart(widths[c]))).join("  "),
    );
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

async function ours(dataset, model, more = {}) {
  const outputRoot = join(work, `out-${Math.random().toString(36).slice(2)}`);
  const result = await embedDataset({
    dataset,
    model,
    outputRoot,
    threads,
    ...(flags["tokens-per-batch"] ? { tokensPerBatch: Number(flags["tokens-per-batch"]) } : {}),
    ...more,
  });
  const { rows, rowsPerSecond, tokensPerSecond, paddingWaste } = result.progress;
  return { outputRoot, seconds: rows / rowsPerSecond, rows, rowsPerSecond, tokensPerSecond, paddingWaste };
}

console.log(
  `${cpus()[0]?.model}, ${threads} threads, load ${loadavg()[0].toFixed(1)}, Node ${process.version}`,
);
if (flags.model !== undefined && flags["peer-model"] !== undefined) {
  const out = [
    ["rows", "count", "ours s", "peer s", "ratio", "ours rows/s", "tokens/s", "padding", "max |Δ|"],
  ];
  for (const [name, texts] of Object.entries(sets(Number(flags.rows)))) {
    const file = join(work, `${name.replaceAll(" ", "-")}.jsonl`);
    writeFileSync(file, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
    const mine = [];
    const peer = [];
    let last;
    const vectors = join(work, "peer.f32");
    for (let i = 0; i < Number(flags.repeat); i++) {
      // In turn, so that a machine that is busy for a while is busy for both.
      last = await ours(file, flags.model);
      mine.push(last);
      peer.push(
        JSON.parse(
          execFileSync(
            flags.python,
            [
              join(root, "bench/embed_sentence_transformers.py"),
              "--model",
              flags["peer-model"],
              "--rows",
              file,
              "--threads",
              String(threads),
              "--vectors",
              vectors,
            ],
            {
              encoding: "utf8",
              stdio: ["ignore", "pipe", "ignore"],
              env: { ...process.env, HF_HUB_OFFLINE: "1" },
            },
          )
            .trim()
            .split("\n")
            .at(-1),
        ),
      );
    }
    const theirs = new Float32Array(new Uint8Array(readFileSync(vectors)).buffer);
    const embeddings = join(last.outputRoot, "embeddings");
    const model = readdirSync(embeddings)[0];
    const dataset = readdirSync(join(embeddings, model))[0];
    const rows = await vectorsOf(join(embeddings, model, dataset, "train"));
    let worst = 0;
    rows.forEach((row, i) => {
      for (let c = 0; c < row.length; c++)
        worst = Math.max(worst, Math.abs(row[c] - theirs[i * row.length + c]));
    });
    const a = median(mine.map((run) => run.seconds));
    const b = median(peer.map((run) => run.seconds));
    const best = mine.find((run) => run.seconds === a);
    out.push([
      name,
      String(texts.length),
      a.toFixed(2),
      b.toFixed(2),
      `${(b / a).toFixed(2)}x`,
      best.rowsPerSecond.toFixed(0),
      best.tokensPerSecond.toFixed(0),
      `${(100 * best.paddingWaste).toFixed(1)}%`,
      worst.toExponential(1),
    ]);
  }
  console.log(
    `\nAgainst sentence-transformers (batch 32, its own length sorting), median of ${flags.repeat}, in turn`,
  );
  table(out);
} else console.log("no --model and --peer-model: the comparison is left out");

/** Resident memory of a process and its children, from /proc, in MiB. */
function residentTree() {
  if (!existsSync("/proc/self/statm")) return null;
  const children = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const sizes = {};
  for (const pid of children) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8");
      const stage = /stages\/(\w+)\.js/.exec(command)?.[1];
      if (parent === process.pid && stage)
        sizes[stage] = Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) / 256;
    } catch {
      // Ended meanwhile.
    }
  }
  return sizes;
}

const million = Number(flags.million);
if (million > 0) {
  const file = join(work, "synthetic.jsonl");
  const next = seeded(5);
  const words =
    "the of and a to in is was he for it with as his on be at by i this had not are but from or have an they".split(
      " ",
    );
  mkdirSync(work, { recursive: true });
  let chunk = "";
  for (let i = 0; i < million; i++) {
    chunk += `{"text":"${Array.from({ length: 3 + next(12) }, () => words[next(words.length)]).join(" ")} ${i}"}\n`;
    if (chunk.length > 1 << 22 || i === million - 1) {
      writeFileSync(file, chunk, { flag: "a" });
      chunk = "";
    }
  }
  const samples = [];
  const stop = new AbortController();
  const tiny = join(root, "tests/embed/fixtures/tiny-encoder");
  const outputRoot = join(work, "million");
  const started = performance.now();
  let interrupted = false;
  const settings = { dataset: file, model: tiny, outputRoot, threads, resume: true };
  const watch = (progress) => {
    const sizes = residentTree();
    if (sizes?.encoder)
      samples.push({ rows: progress.rows, ...sizes, parent: process.memoryUsage().rss / 2 ** 20 });
    if (!interrupted && progress.rows > million * 0.9) {
      interrupted = true;
      stop.abort();
    }
  };
  const first = await embedDataset(settings, { onProgress: watch, stop: stop.signal });
  const seconds = (performance.now() - started) / 1000;
  console.log(
    `\n${first.progress.rows} of ${million} synthetic rows through the tiny encoder in ${seconds.toFixed(1)} s: ${first.progress.rowsPerSecond.toFixed(0)} rows/s (${(statSync(file).size / 1e6).toFixed(0)} MB of text)`,
  );
  const at = (fraction) =>
    samples.find((sample) => sample.rows >= million * 0.9 * fraction) ?? samples.at(-1);
  const columns = ["loader", "encoder", "writer", "parent"];
  table([
    ["resident MiB at", ...columns],
    ...[0.1, 0.25, 0.5, 0.75, 0.98].map((fraction) => [
      `${at(fraction)?.rows} rows`,
      ...columns.map((name) => (at(fraction)?.[name] ?? 0).toFixed(0)),
    ]),
  ]);
  const again = performance.now();
  let firstRow = null;
  await embedDataset(settings, {
    onProgress: (progress) => {
      if (firstRow === null && progress.rows > 0) firstRow = performance.now() - again;
    },
  });
  console.log(
    `resume at ${Math.round((100 * first.progress.rows) / million)} %: first new rows after ${((firstRow ?? 0) / 1000).toFixed(2)} s (processes and model included)`,
  );
  const idle = performance.now();
  await embedDataset(settings);
  console.log(`resume of a finished run: ${((performance.now() - idle) / 1000).toFixed(2)} s`);
}
