// SPDX-License-Identifier: Apache-2.0
// llama.cpp (node-llama-cpp's prebuilt CPU binary) as the peer of our benchmarks: one JSON request a line
// in, one answer a line out. node-llama-cpp is found below the folder CHATSPACE_BENCH_LLAMA.
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.CHATSPACE_BENCH_LLAMA, "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
let llama;
let model;
let context;

/** A fresh model and context; all threads the request names. */
async function load({ model: path, threads, contextSize, sequences = 1 }) {
  llama ??= await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    maxThreads: threads,
    logLevel: "error",
  });
  await context?.dispose();
  await model?.dispose();
  model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
  context = await model.createContext({ contextSize, threads, sequences });
  return { release: llama.llamaCppRelease.release, system: llama.systemInfo.trim() };
}

/** Greedy tokens after a prompt; times from the prompt's start to the first token, and from there on. */
async function run({ tokens, steps }) {
  const sequence = context.getSequence();
  try {
    const begin = performance.now();
    let first = begin;
    let count = 0;
    for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
      if (++count === 1) first = performance.now();
      if (count === steps) break;
    }
    return { promptMs: first - begin, generateMs: performance.now() - first, count };
  } finally {
    sequence.dispose();
  }
}

/**
 * Greedy tokens after several prompts at once, one sequence each: the library batches them. Time from when
 * every sequence has its first token to when every one has `steps` more.
 */
async function batch({ tokens, steps }) {
  const sequences = tokens.map(() => context.getSequence());
  const made = tokens.map(() => []);
  let waiting = tokens.length;
  let first = 0;
  const generate = async (sequence, index) => {
    const options = { temperature: 0, yieldEogToken: true };
    for await (const token of sequence.evaluate(tokens[index], options)) {
      made[index].push(token);
      if (made[index].length === 1 && --waiting === 0) first = performance.now();
      if (made[index].length === steps + 1) break;
    }
  };
  try {
    await Promise.all(sequences.map(generate));
    return { generateMs: performance.now() - first, made };
  } finally {
    for (const sequence of sequences) sequence.dispose();
  }
}

const answers = { load, run, batch };
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = await answers[request.do](request);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await llama?.dispose();
