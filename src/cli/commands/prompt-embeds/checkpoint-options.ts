// SPDX-License-Identifier: Apache-2.0
// Options of the commands that load a compressed-prompt checkpoint, and how they become a compressor.

import { type Command, Option } from "commander";
import type { CompressedPrompt, PromptCompressor } from "../../../memory/compressor.ts";
import type { LoadOptions } from "../../../model/load-options.ts";
import { defined, positiveInteger } from "../../options.ts";
import { progressBar, warn } from "../../terminal.ts";

export interface CheckpointFlags {
  chunkSize?: number;
  tokenBudget?: number;
  device?: string;
  dtype?: LoadOptions["dtype"];
  threads?: number;
}

export function addCheckpointOptions(command: Command): Command {
  return addDeviceOptions(
    command
      .option(
        "--chunk-size <n>",
        "embedder tokens of a row, for a checkpoint that does not record it",
        positiveInteger,
      )
      .option("--token-budget <n>", "embedder tokens of one batch (default: 8192)", positiveInteger),
  );
}

export function addDeviceOptions(command: Command): Command {
  return command
    .option("--device <device>", "cpu or cuda:N (default: cuda:0 if there is one)")
    .addOption(
      new Option(
        "--dtype <dtype>",
        "dtype of weights and cache (default: float32 for the embedder, as stored for the model)",
      ).choices(["auto", "float32", "bfloat16", "float16"]),
    )
    .option("--threads <n>", "threads (default: the cores this process may use)", positiveInteger);
}

export async function loadCompressor(
  checkpoint: string,
  flags: CheckpointFlags,
  signal: AbortSignal,
): Promise<PromptCompressor> {
  const { PromptCompressor } = await import("../../../memory/compressor.ts");
  const { chunkSize, tokenBudget, device, dtype, threads } = flags;
  const bar = progressBar();
  try {
    const compressor = await PromptCompressor.load(checkpoint, {
      ...defined({ chunkSize, tokenBudget, device, dtype, threads }),
      signal,
      onProgress: bar.onProgress,
    });
    if (!compressor.recorded)
      warn(
        `the checkpoint does not record its chunk size: ${compressor.settings.chunkSize} is believed. ` +
          `Write { "compressedPrompt": { "version": 1, "chunkSize": ${compressor.settings.chunkSize}, "pooling": "marker" } } into its chatspace.json once you know it is right.`,
      );
    return compressor;
  } finally {
    bar.end();
  }
}

/** "56 rows of 32: 2 spans, 137 memory tokens in 35 rows". */
export function summaryOf({ prompt, spans }: CompressedPrompt): string {
  const tokens = spans.reduce((sum, span) => sum + span.tokens, 0);
  const rows = spans.reduce((sum, span) => sum + span.end - span.start, 0);
  return `${prompt.shape[0]} rows of ${prompt.shape[1]}: ${spans.length} spans, ${tokens} memory tokens in ${rows} rows`;
}
