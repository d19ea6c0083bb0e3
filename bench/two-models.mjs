// SPDX-License-Identifier: Apache-2.0
// Two models at once against one after the other, in one process: the same requests, the same tokens. The
// models share the cores while both have work (native/kernels/core_share.h), so at once should take no longer
// than in turn. Whoever pays is told: the time of both together, of the slower and of the quicker one.
//
//   npm run bench:two-models [-- --models A,B --dtype float32 --steps 24 --batch 1 --rounds 4 --threads 2]
import { parseArgs } from "node:util";
import { SteerModel } from "../dist/index.js";
import { loadAddon } from "../dist/native/loader.js";
import { mirrored, summary } from "./lib/paired.mjs";
import { fixed, machineLine, median, printTable } from "./lib/table.mjs";
import { prompts } from "./lib/workload.mjs";

const { values: args } = parseArgs({
  options: {
    models: { type: "string", default: "smollm2-135m-instruct,smollm2-135m-instruct" },
    dtype: { type: "string", default: "float32" },
    steps: { type: "string", default: "24" },
    batch: { type: "string", default: "1" },
    rounds: { type: "string", default: "4" },
    threads: { type: "string" },
  },
});

const addon = loadAddon();
const threads = Number(args.threads ?? addon.machine().cores);
const models = [];
for (const name of args.models.split(","))
  models.push(await SteerModel.load(name, { dtype: args.dtype, threads, cacheBytes: 256 * 2 ** 20 }));

const work = (model) => async () => {
  const tokens = prompts(Number(args.batch), 16, model.info.vocabSize).map((ids) => Int32Array.from(ids));
  const begin = performance.now();
  const answers = await model.generate(tokens, {
    ...{ maxTokens: Number(args.steps), temperature: 0, ignoreEos: true, reusePrefix: false },
  });
  return {
    ms: performance.now() - begin,
    tokens: answers.map((answer) => answer.tokens.join(" ")).join("|"),
  };
};
const jobs = models.map(work);

try {
  const alone = [];
  for (const job of jobs) {
    await job();
    alone.push((await job()).tokens);
  }
  const spread = { slower: [], quicker: [] };
  const check = (answers) => {
    answers.forEach(({ tokens }, i) => {
      if (tokens !== alone[i])
        throw new Error(`model ${i} gave other tokens beside another model than alone`);
    });
    return answers.map(({ ms }) => ms);
  };
  const measured = await mirrored({
    rounds: Number(args.rounds),
    sides: {
      "one after the other": async () => {
        const begin = performance.now();
        const answers = [];
        for (const job of jobs) answers.push(await job());
        check(answers);
        return performance.now() - begin;
      },
      "at once": async () => {
        const begin = performance.now();
        const times = check(await Promise.all(jobs.map((job) => job())));
        spread.slower.push(Math.max(...times));
        spread.quicker.push(Math.min(...times));
        return performance.now() - begin;
      },
    },
  });
  console.log(machineLine(addon));
  console.log(
    `${args.models}, ${args.dtype}, ${threads} threads asked for by each, batch ${args.batch}, ${args.steps} greedy tokens, ` +
      `${measured.rounds} rounds forth and back; the tokens were the same in every run`,
  );
  const turn = measured.sides["one after the other"];
  const row = (name) => {
    const { median: middle, low, high } = summary(measured.sides[name].map((ms, i) => ms / turn[i]));
    return [
      name,
      fixed(median(measured.sides[name]), 0),
      `${fixed(middle, 2)} (${fixed(low, 2)} to ${fixed(high, 2)})`,
    ];
  };
  printTable(["case", "ms for both", "of one after the other"], [row("one after the other"), row("at once")]);
  console.log(
    `At once, the slower model took ${fixed(median(spread.slower), 0)} ms, the quicker ${fixed(median(spread.quicker), 0)} ms.`,
  );
} finally {
  for (const model of models) await model.dispose();
}
