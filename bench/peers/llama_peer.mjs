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
async function load({ model: path, threads, contextSize }) {
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
  context = await model.createContext({ contextSize, threads, sequences: 1 });
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

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = request.do === "load" ? await load(request) : await run(request);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await llama?.dispose();
