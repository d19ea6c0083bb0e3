// SPDX-License-Identifier: Apache-2.0
// Where a decode step spends its time: per operator the calls a step, its own time, the share of the step,
// the time in which threads had nothing to do, and the rate at which weights were read, beside a plain
// read loop in the same process.
//
//   npm run bench:profile [-- --model NAME --dtype float32 --batch 1,16 --steps 32 --threads 2 --layers all]
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { BatchRunner } from "./lib/batch-run.mjs";
import { makePrograms } from "./lib/steering-cases.mjs";
import { fixed, machineLine, printTable } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    quantize: { type: "string" },
    batch: { type: "string", default: "1" },
    steps: { type: "string", default: "32" },
    prompt: { type: "string", default: "16" },
    threads: { type: "string" },
    steered: { type: "boolean", default: false },
  },
});

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const steps = Number(args.steps);
const batches = args.batch.split(",").map(Number);
const budget = Math.max(...batches) * Number(args.prompt) + 512;
const model = await SteerModel.load(args.model, {
  ...{ dtype: args.dtype, threads, tokenBudget: budget, maxBatch: Math.max(...batches) + 1 },
  ...(args.quantize ? { quantize: args.quantize } : {}),
});
const { layers, hiddenSize, vocabSize } = model.info;
const runner = new BatchRunner(model, budget);
console.log(machineLine(addon));
try {
  for (const batch of batches) {
    const tokens = prompts(batch, Number(args.prompt), vocabSize);
    const every = Array.from({ length: layers }, (_, layer) => layer);
    const programs = args.steered
      ? makePrograms("add", { count: batch, layers: every, width: hiddenSize })
      : undefined;
    // A run of few steps and one of many: their difference is decode alone, prompts and joining cancel.
    await runner.run({ tokens, steps: 2, programs });
    const few = await profiled(() => runner.run({ tokens, steps: 2, programs }));
    const many = await profiled(() => runner.run({ tokens, steps: steps + 2, programs }));
    const read = addon.readBandwidth(Math.min(model.info.weightBytes, 512 * 2 ** 20), threads, 3);
    report(batch, difference(many, few), read);
  }
} finally {
  await model.dispose();
}

async function profiled(body) {
  addon.profile("start");
  await body();
  return addon.profile("stop");
}

function difference(many, few) {
  return many.map((line, i) => ({
    operator: line.operator,
    calls: (line.calls - few[i].calls) / steps,
    us: (line.nanoseconds - few[i].nanoseconds) / steps / 1000,
    idleUs: (line.idleNanoseconds - few[i].idleNanoseconds) / steps / 1000,
    bytes: (line.bytes - few[i].bytes) / steps,
  }));
}

function report(batch, lines, read) {
  const total = lines.reduce((sum, { us }) => sum + us, 0);
  const idle = lines.reduce((sum, { idleUs }) => sum + idleUs, 0);
  const bytes = lines.reduce((sum, each) => sum + each.bytes, 0);
  const row = ({ operator, calls, us, idleUs, bytes: of }) => [
    ...[operator, fixed(calls), fixed(us), `${fixed((100 * us) / total)} %`],
    ...[fixed(idleUs / threads), `${fixed((100 * idleUs) / threads / total)} %`],
    of > 0 ? fixed(of / us / 1000) : "-",
    of > 0 ? `${fixed(of / us / 10 / read, 0)} %` : "-",
  ];
  console.log(
    `\n${args.model} ${args.dtype}${args.quantize ? ` ${args.quantize}` : ""}, ${threads} threads, batch ${batch}, ` +
      `${args.steered ? "add at all layers" : "unsteered"}, ${steps} decode steps; read loop ${fixed(read)} GB/s\n`,
  );
  printTable(
    [
      "operator",
      "calls",
      "us a step",
      "share",
      "idle us a thread",
      "of the step",
      "GB/s",
      "of the read loop",
    ],
    [
      ...lines.filter(({ calls }) => calls > 0).map(row),
      row({
        operator: "all",
        calls: lines.reduce((n, { calls }) => n + calls, 0),
        us: total,
        idleUs: idle,
        bytes,
      }),
    ],
  );
}
