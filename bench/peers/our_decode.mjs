// SPDX-License-Identifier: Apache-2.0
// Our own engine in a process of its own, for what only the environment of a process can change: one JSON request
// a line in, one answer a line out (lib/peer.mjs).
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { SteerModel } from "../../dist/index.js";
import { prompts } from "../lib/workload.mjs";

let model;

async function load({ model: name, dtype, threads }) {
  model = await SteerModel.load(name, { dtype, threads, cacheBytes: 256 * 2 ** 20 });
  return { layers: model.info.layers };
}

/** `batch` requests of `steps` tokens at once: milliseconds on both clocks, and what came out. */
async function run({ batch, steps }) {
  const tokens = prompts(batch, 1, model.info.vocabSize).map((ids) => Int32Array.from(ids));
  const before = process.cpuUsage();
  const begin = performance.now();
  const answers = await model.generate(tokens, {
    ...{ maxTokens: steps, temperature: 0, ignoreEos: true, reusePrefix: false },
  });
  const ms = performance.now() - begin;
  const { user, system } = process.cpuUsage(before);
  const text = answers.map((answer) => answer.tokens.join(" ")).join("|");
  return { ms, cpuMs: (user + system) / 1000, tokens: createHash("sha256").update(text).digest("hex") };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = await { load, run }[request.do](request);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await model?.dispose();
