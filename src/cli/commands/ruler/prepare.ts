// SPDX-License-Identifier: Apache-2.0
// `ruler prepare`: prompts of tasks to files.

import type { Command } from "commander";
import { UsageError } from "../../exit-codes.ts";
import { interruptible } from "../../interrupt.ts";
import { defined, naturalNumber, positiveInteger } from "../../options.ts";
import { note, printJson, printLine, table } from "../../terminal.ts";

interface PrepareFlags {
  task: string;
  minimal?: boolean;
  tokenizer: string;
  length: string;
  samples?: number;
  seed?: number;
  modelTemplate?: string;
  data?: string;
  output: string;
  subset?: string;
  benchmark?: string;
  remove_newline_tab?: boolean;
  chunk_idx?: number;
  chunk_amount?: number;
  prepare_for_ns?: boolean;
  overwrite?: boolean;
  json?: boolean;
  keys?: number;
  valuesPerKey?: number;
  chains?: number;
  hops?: number;
  common?: number;
}

export function registerPrepare(ruler: Command): void {
  ruler
    .command("prepare")
    .description("Write the prompts of tasks: DIR/NAME/validation.jsonl, byte for byte as upstream.")
    .option("--task <names>", "all, or task names joined with commas", "all")
    .option("--tokenizer <name|path>", "cl100k_base, o200k_base, tokenizer.json or its folder", "cl100k_base")
    .option("--length <tokens>", "tokens of prompt and answer together: 4096, 4k, 128k", "4096")
    .option("--samples <n>", "samples of each task (upstream: 500)", positiveInteger)
    .option("--seed <n>", "random seed (default: 42)", naturalNumber)
    .option("--model-template <name>", "base, meta-llama3, ..., or a text with {task_template}")
    .option(
      "--data <dir>",
      "essays and questions (`ruler data`); built-in text stands in for what is missing",
    )
    .requiredOption("-o, --output <dir>", "folder for the task folders")
    .option("--subset <name>", "name of the files (default: validation)")
    .option("--benchmark <name>", "synthetic, the only one", "synthetic")
    .option("--remove_newline_tab", "put every prompt on one line")
    .option("--chunk_idx <n>", "this chunk of several (seed + n)", naturalNumber)
    .option("--chunk_amount <n>", "number of chunks", positiveInteger)
    .option("--prepare_for_ns", "leave the model template out but count its tokens")
    .option("--minimal", "the minimal tasks: niah, variable_tracking, common_words, with memory fields")
    .option("--keys <n>", "--minimal: keys of niah", positiveInteger)
    .option("--values-per-key <n>", "--minimal: values of each key", positiveInteger)
    .option("--chains <n>", "--minimal: chains of variables", positiveInteger)
    .option("--hops <n>", "--minimal: assignments after the first of a chain", positiveInteger)
    .option("--common <n>", "--minimal: common words to name", positiveInteger)
    .option("--overwrite", "write again what is there")
    .option("--json", "print what was written as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer ruler prepare --length 4k --samples 100 -o data/4k
  $ chatspace-steer ruler prepare --task niah_single_1,vt --tokenizer ./Qwen3-0.6B --length 8k --samples 50 -o data/8k
  $ chatspace-steer ruler prepare --minimal --task niah --samples 20 --keys 2 --values-per-key 2 -o data/minimal`,
    )
    .action((flags: PrepareFlags) => interruptible((signal) => prepare(flags, signal)));
}

async function prepare(flags: PrepareFlags, signal: AbortSignal): Promise<void> {
  const { parseLength, prepareTasks } = await import("../../../ruler/prepare.ts");
  if (flags.benchmark !== "synthetic")
    throw new UsageError(`--benchmark: expected synthetic, got ${flags.benchmark}`);
  const { task, output, samples, seed, overwrite } = flags;
  const length = parseLength(flags.length);
  if (flags.minimal) {
    const { prepareMinimal } = await import("../../../ruler/minimal/prepare.ts");
    const { keys, valuesPerKey, chains, hops, common } = flags;
    const more = defined({ samples, seed, overwrite, keys, valuesPerKey, chains, hops, common });
    const made = await prepareMinimal({ task, output, length, ...more });
    if (flags.json) return printJson(made);
    return printLine(table(made.map((m) => [m.task, `${m.rows} samples`, m.file])));
  }
  const { modelTemplate, data, subset } = flags;
  const prepared = await prepareTasks({
    ...{ task, output, length, signal, tokenizer: flags.tokenizer },
    ...defined({ samples, seed, overwrite, modelTemplate, data, subset }),
    ...defined({
      removeNewlineTab: flags.remove_newline_tab,
      chunkIndex: flags.chunk_idx,
      chunkAmount: flags.chunk_amount,
      prepareForNs: flags.prepare_for_ns,
    }),
    onTask(done) {
      const from = Object.entries(done.sources).map(([part, source]) => `, ${part}: ${source}`);
      note(
        `${done.task}: ${done.rows} samples, longest ${done.longest}${from.join("")}${done.kept ? " (kept)" : ""}`,
      );
    },
  });
  if (flags.json) return printJson(prepared);
  printLine(table(prepared.map((p) => [p.task, `${p.rows} samples`, p.file])));
}
