// SPDX-License-Identifier: Apache-2.0
// `prompt-embeds build`: a prompt with memory spans to a file of embeddings.

import type { Command } from "commander";
import { interruptible } from "../../interrupt.ts";
import { note, printJson, printLine, warn } from "../../terminal.ts";
import {
  addCheckpointOptions,
  type CheckpointFlags,
  loadCompressor,
  summaryOf,
} from "./checkpoint-options.ts";
import { addPromptOptions, type PromptFlags, promptOf } from "./prompt-input.ts";

interface Flags extends CheckpointFlags, PromptFlags {
  checkpoint: string;
  output: string;
  json?: boolean;
}

export function registerBuild(parent: Command): void {
  const command = parent
    .command("build")
    .description("Write the embeddings of a prompt: .npy, .safetensors (with what made them) or .pt.")
    .argument("[text]", "the prompt with its spans (default: standard input)")
    .requiredOption("-c, --checkpoint <dir>", "folder with llm/, embedder/ and projectors/");
  addCheckpointOptions(addPromptOptions(command))
    .option("-o, --output <file>", "file to write", "prompt_embeddings.npy")
    .option("--json", "print what was written as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer prompt-embeds build "<|memory_start|>$(cat notes.txt)<|memory_end|> Summarise this." -c ./checkpoint --chat
  $ chatspace-steer prompt-embeds build --input-file prompt.txt -c ./checkpoint -o prompt.safetensors
  $ cat talk.json | chatspace-steer prompt-embeds build --messages - -c ./checkpoint -o talk.npy`,
    )
    .action((text: string | undefined, flags: Flags) =>
      interruptible((signal) => build(text, flags, signal)),
    );
}

async function build(text: string | undefined, flags: Flags, signal: AbortSignal): Promise<void> {
  const { checkEmbeddingsPath, writePromptEmbeddings } = await import("../../../memory/embedding-files.ts");
  checkEmbeddingsPath(flags.output);
  const prompt = await promptOf(text, flags);
  await using compressor = await loadCompressor(flags.checkpoint, flags, signal);
  const compressed = await compressor.compress(prompt, {
    signal,
    ...(flags.specialTokens === false ? { addSpecialTokens: false } : {}),
  });
  const { spans, provenance, tokens } = compressed;
  if (spans.length === 0) warn("the prompt has no <|memory_start|>...<|memory_end|>: nothing was compressed");
  for (const [i, span] of spans.entries())
    if (span.tokens === 0) warn(`span ${i} is empty: its row says nothing`);
  await writePromptEmbeddings(flags.output, compressed);
  if (flags.json) {
    const { shape } = compressed.prompt;
    printJson({ file: flags.output, shape, spans, tokens, provenance });
    return;
  }
  printLine(flags.output);
  note(`[${summaryOf(compressed)}]`);
}
