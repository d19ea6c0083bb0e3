// SPDX-License-Identifier: Apache-2.0
// `ruler cost`: what a vector costs at each length.

import { join } from "node:path";
import type { Command } from "commander";
import { writeFileAtomic } from "../../../data/files.ts";
import { UsageError } from "../../exit-codes.ts";
import { interruptible } from "../../interrupt.ts";
import {
  addModelOptions,
  addVectorOptions,
  defined,
  loadModel,
  type ModelFlags,
  naturalNumber,
  positiveInteger,
} from "../../options.ts";
import { note, printJson, printLine, table } from "../../terminal.ts";
import { type ProgramFlags, programOf, STEERING_HELP } from "./steering.ts";

interface CostFlags extends ModelFlags, ProgramFlags {
  lengths: string;
  task: string;
  samples?: number;
  seed?: number;
  data?: string;
  output: string;
  counter?: string;
  batch?: number;
  chat?: boolean;
  maxTokens?: number;
  resume?: boolean;
  overwrite?: boolean;
  json?: boolean;
}

export function registerCost(ruler: Command): void {
  const command = ruler
    .command("cost")
    .description(
      "What a vector costs: the same prompts with and without it, the difference per task and length.",
    )
    .option("--lengths <list>", "lengths joined with commas", "1k,4k")
    .option("--task <names>", "all, or task names joined with commas", "all")
    .option("--samples <n>", "samples of each task and length (default: 20)", positiveInteger)
    .option("--seed <n>", "random seed (default: 42)", naturalNumber)
    .option("--data <dir>", "essays and questions (`ruler data`)")
    .option("--steering <file>", STEERING_HELP)
    .requiredOption("-o, --output <dir>", "folder for prompts and answers");
  addVectorOptions(addModelOptions(command))
    .option("--counter <name|path>", "tokenizer that measures lengths (default: the model's own)")
    .option("--batch <n>", "prompts that run together (default: 8)", positiveInteger)
    .option("--chat", "ask in the model's chat format")
    .option("-n, --max-tokens <n>", "tokens of an answer (default: the task's own)", positiveInteger)
    .option("--resume", "go on with an earlier run")
    .option("--overwrite", "throw an earlier run away")
    .option("--json", "print the table as JSON")
    .addHelpText(
      "after",
      `
Example:
  $ chatspace-steer ruler cost -v happy -s 2 -l 16 --lengths 1k,4k --task niah_single_1,vt --samples 20 -o cost/happy`,
    )
    .action((flags: CostFlags) => interruptible((signal) => cost(flags, signal)));
}

async function cost(flags: CostFlags, signal: AbortSignal): Promise<void> {
  const { measureCost } = await import("../../../ruler/cost.ts");
  const { lengthName, parseLength } = await import("../../../ruler/prepare.ts");
  const { modelCounter } = await import("../../../ruler/tokens/model.ts");
  const { describeProgram, steerModelGenerator } = await import("../../../ruler/generators/steer-model.ts");
  const steering = await programOf(flags);
  if (steering.length === 0) throw new UsageError("expected --vector or --steering: something to measure");
  const lengths = flags.lengths.split(",").map(parseLength);
  const model = await loadModel(flags, signal);
  try {
    const { batch, chat, task, output, data, seed, resume, overwrite, maxTokens } = flags;
    const shared = defined({ batch, chat });
    const told = new Set<string>();
    const rows = await measureCost({
      ...{ lengths, task, output, signal, tokenizer: flags.counter ?? modelCounter(model) },
      samples: flags.samples ?? 20,
      plain: steerModelGenerator(model, shared),
      steered: steerModelGenerator(model, { ...shared, steering }),
      ...defined({ data, seed, resume, overwrite, maxTokens }),
      onProgress(p) {
        const line = `${lengthName(p.length)} ${p.task} ${p.steered ? "steered" : "plain"}: ${p.done} of ${p.total}`;
        const step = `${line.split(":")[0]} ${Math.floor((4 * p.done) / Math.max(1, p.total))}`;
        if (!told.has(step)) note(line);
        told.add(step);
      },
    });
    const result = { model: model.info.name, steering: describeProgram(steering), rows };
    await writeFileAtomic(join(output, "cost.json"), [`${JSON.stringify(result, null, 2)}\n`]);
    if (flags.json) return printJson(result);
    const head = ["length", "task", "pairs", "plain", "steered", "difference", "95 % interval", "p"];
    const body = rows.map(({ length, task: name, samples, plain, steered, difference: d, p }) => [
      lengthName(length),
      name,
      String(samples),
      plain.mean.toFixed(1),
      steered.mean.toFixed(1),
      signed(d.mean),
      `[${signed(d.low)}, ${signed(d.high)}]`,
      p.toFixed(3),
    ]);
    printLine(table([head, ...body]));
  } finally {
    await model.dispose();
  }
}

function signed(value: number): string {
  return `${value > 0 ? "+" : ""}${value.toFixed(1)}`;
}
