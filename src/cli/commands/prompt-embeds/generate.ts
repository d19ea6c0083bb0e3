// SPDX-License-Identifier: Apache-2.0
// `prompt-embeds generate`: continue a prompt given as embeddings, or compressed on the spot.

import type { Command } from "commander";
import type { PromptEmbeddings } from "../../../model/prompt.ts";
import { UsageError } from "../../exit-codes.ts";
import { interruptible } from "../../interrupt.ts";
import {
  addSamplingOptions,
  addSteeringOptions,
  defined,
  loadModel,
  type SamplingFlags,
  type SteeringFlags,
  samplingOf,
  steeringOf,
} from "../../options.ts";
import { note, print, printJson, printLine } from "../../terminal.ts";
import { summarize } from "../generate.ts";
import {
  addCheckpointOptions,
  type CheckpointFlags,
  loadCompressor,
  summaryOf,
} from "./checkpoint-options.ts";
import { addPromptOptions, type PromptFlags, promptOf } from "./prompt-input.ts";

interface Flags extends CheckpointFlags, PromptFlags, SteeringFlags, SamplingFlags {
  checkpoint?: string;
  model?: string;
  tokenizer?: string;
  embeddings?: string;
  json?: boolean;
}

export function registerGenerate(parent: Command): void {
  const command = parent
    .command("generate")
    .description("Continue a prompt of embeddings; the answer streams to stdout.")
    .argument("[text]", "a prompt to compress first (default: standard input)")
    .option("-e, --embeddings <file>", "embeddings of `prompt-embeds build` in place of a text")
    .option("-c, --checkpoint <dir>", "folder with llm/, embedder/ and projectors/")
    .option("-m, --model <name|path>", "with --embeddings: the model, in place of the checkpoint's llm/")
    .option("--tokenizer <folder>", "tokenizer.json and its kin, when the archive has none");
  addSamplingOptions(addSteeringOptions(addCheckpointOptions(addPromptOptions(command))))
    .option("--json", "print the whole result as JSON when it is done")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer prompt-embeds generate -e prompt.npy -c ./checkpoint -n 200
  $ chatspace-steer prompt-embeds generate --input-file prompt.txt --chat -c ./checkpoint
  $ chatspace-steer prompt-embeds generate -e prompt.npy -m ./llm -v happy -s 2 -l 16`,
    )
    .action((text: string | undefined, flags: Flags) =>
      interruptible((signal) => generate(text, flags, signal)),
    );
}

async function generate(text: string | undefined, flags: Flags, signal: AbortSignal): Promise<void> {
  const steering = await steeringOf(flags);
  const { prompt, path } = await openPrompt(text, flags, signal);
  const { device, dtype, threads, tokenizer } = flags;
  const model = await loadModel({ model: path, ...defined({ device, dtype, threads, tokenizer }) }, signal);
  try {
    const options = { ...samplingOf(flags), steering, signal };
    if (flags.json) {
      const { promptTokens: _, ...result } = await model.generate(prompt, options);
      printJson({ model: model.info.name, promptRows: prompt.shape[0], ...result });
      return;
    }
    const stream = model.stream(prompt, options);
    for await (const { text: piece } of stream) print(piece);
    printLine();
    summarize(await stream.result);
  } finally {
    await model.dispose();
  }
}

/** The embeddings and the model that continues them. The embedder is gone before that model is loaded. */
async function openPrompt(
  text: string | undefined,
  flags: Flags,
  signal: AbortSignal,
): Promise<{ prompt: PromptEmbeddings; path: string }> {
  const { embeddings, checkpoint, model, chunkSize } = flags;
  if (embeddings === undefined) {
    if (checkpoint === undefined) throw new UsageError("expected --embeddings, or --checkpoint for a text");
    if (model !== undefined) throw new UsageError("--model: expected --embeddings beside it");
    const given = await promptOf(text, flags);
    await using compressor = await loadCompressor(checkpoint, flags, signal);
    const compressed = await compressor.compress(given, {
      signal,
      ...(flags.specialTokens === false ? { addSpecialTokens: false } : {}),
    });
    note(`[${summaryOf(compressed)}]`);
    return { prompt: compressed.prompt, path: compressor.modelPath };
  }
  if (text !== undefined || flags.inputFile !== undefined || flags.messages !== undefined)
    throw new UsageError("expected either --embeddings or a text, got both");
  if ((checkpoint === undefined) === (model === undefined))
    throw new UsageError("--embeddings: expected one of --checkpoint and --model beside it");
  const { readPromptEmbeddings } = await import("../../../memory/embedding-files.ts");
  const { prompt } = readPromptEmbeddings(embeddings);
  if (model !== undefined) return { prompt, path: model };
  const { modelPath, openMemoryCheckpoint } = await import("../../../memory/checkpoint.ts");
  const opened = openMemoryCheckpoint(checkpoint!, chunkSize === undefined ? {} : { chunkSize });
  return { prompt, path: modelPath(opened.llm) };
}
