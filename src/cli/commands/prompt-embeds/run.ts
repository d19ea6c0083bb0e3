// SPDX-License-Identifier: Apache-2.0
// `prompt-embeds run`: answers to a JSON of test prompts, an answer a line as it comes.

import { open } from "node:fs/promises";
import type { Command } from "commander";
import { readInput } from "../../input.ts";
import { interruptible } from "../../interrupt.ts";
import {
  addSamplingOptions,
  addSteeringOptions,
  defined,
  loadModel,
  positiveInteger,
  type SamplingFlags,
  type SteeringFlags,
  samplingOf,
  steeringOf,
} from "../../options.ts";
import { note, printJsonLine, printLine } from "../../terminal.ts";
import { addCheckpointOptions, type CheckpointFlags, loadCompressor } from "./checkpoint-options.ts";

interface Flags extends CheckpointFlags, SteeringFlags, SamplingFlags {
  checkpoint: string;
  output?: string;
  numExamples?: number;
  batch: number;
  json?: boolean;
}

/** The original's own sampling; an option given takes the place of its value. */
const SAMPLING = { maxTokens: 512, temperature: 0.7, topP: 0.8, topK: 20, repetitionPenalty: 1.1 };

export function registerRun(parent: Command): void {
  const command = parent
    .command("run")
    .description("Answer a JSON of test prompts with a checkpoint.")
    .argument(
      "<tests>",
      'JSON: { "examples": [{ "code", "prompt" }, { "text" }, { "messages" }] } (- = stdin)',
    )
    .requiredOption("-c, --checkpoint <dir>", "folder with llm/, embedder/ and projectors/")
    .option("--num-examples <n>", "so many of them, drawn with the seed", positiveInteger);
  addSamplingOptions(addSteeringOptions(addCheckpointOptions(command)))
    .option("--batch <n>", "prompts that are answered at once", positiveInteger, 8)
    .option("-o, --output <file>", "write a line of JSON an answer")
    .option("--json", "print a line of JSON an answer in place of the text")
    .addHelpText(
      "after",
      `
Sampling where nothing is said: 512 tokens, temperature 0.7, top-p 0.8, top-k 20, repetition penalty 1.1,
seed 42 (which also draws --num-examples).

Examples:
  $ chatspace-steer prompt-embeds run tests.json -c ./checkpoint
  $ chatspace-steer prompt-embeds run tests.json -c ./checkpoint --num-examples 5 -t 0 -o answers.jsonl`,
    )
    .action((tests: string, flags: Flags) => interruptible((signal) => run(tests, flags, signal)));
}

async function run(file: string, flags: Flags, signal: AbortSignal): Promise<void> {
  const { parseExamples, sampleExamples } = await import("../../../memory/examples.ts");
  const json = await readInput(file);
  const steering = await steeringOf(flags);
  const seed = flags.seed ?? 42;
  // Once before anything is loaded, for what is wrong in the file.
  parseExamples(json, { file, chat: true });
  await using compressor = await loadCompressor(flags.checkpoint, flags, signal);
  const all = parseExamples(json, { file, chat: compressor.hasChatTemplate });
  const examples = sampleExamples(all, flags.numExamples, seed);
  const { device, dtype, threads } = flags;
  const model = await loadModel(
    { model: compressor.modelPath, ...defined({ device, dtype, threads }) },
    signal,
  );
  const output = flags.output === undefined ? null : await open(flags.output, "w");
  try {
    for (let start = 0; start < examples.length; start += flags.batch) {
      const answers = await Promise.all(
        examples.slice(start, start + flags.batch).map(async ({ index, prompt }) => {
          const { prompt: embeddings, spans } = await compressor.compress(prompt, { signal });
          const options = { ...SAMPLING, ...samplingOf(flags), seed: seed + index, steering, signal };
          const result = await model.generate(embeddings, options);
          const { text, tokens, finishReason, seed: used, usage, steering: applied } = result;
          return { index, prompt, text, tokens, finishReason, seed: used, spans, usage, steering: applied };
        }),
      );
      for (const answer of answers) {
        const line = JSON.stringify({ ...answer, tokens: [...answer.tokens] });
        await output?.write(`${line}\n`);
        if (flags.json) printJsonLine(answer);
        else if (output === null) printLine(`# example ${answer.index}\n${answer.text}\n`);
      }
      note(`${Math.min(examples.length, start + flags.batch)} of ${examples.length}`);
    }
    if (output !== null && !flags.json) printLine(flags.output);
  } finally {
    await output?.close();
    await model.dispose();
  }
}
