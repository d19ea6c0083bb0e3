// SPDX-License-Identifier: Apache-2.0
// `convert`: a Hugging Face folder or a GGUF file becomes an archive of our own.

import { existsSync, statSync } from "node:fs";
import { type Command, Option } from "commander";
import type { StoredForm } from "../../model/stored-form.ts";
import { UsageError } from "../exit-codes.ts";
import { interruptible } from "../interrupt.ts";
import { bytesText, note, printJson, printLine, progressBar } from "../terminal.ts";

interface Flags extends StoredForm {
  force?: boolean;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("convert")
    .description("Make an archive (TorchScript, weights and tokenizer in one file) without Python.")
    .argument("<source>", "a Hugging Face folder (config.json, *.safetensors, tokenizer) or a .gguf file")
    .argument("<output>", "the archive to write, NAME.pt; it appears whole or not at all")
    .addOption(
      new Option("--dtype <dtype>", "what matrices are stored as (auto: as in the source)").choices([
        "auto",
        "float32",
        "bfloat16",
        "float16",
      ]),
    )
    .addOption(
      new Option("--quantize <how>", "store matrices in 8- or 4-bit blocks; the archive loads so").choices([
        "none",
        "int8",
        "int4",
      ]),
    )
    .option("-f, --force", "replace the output if it exists")
    .option("--json", "print what was written as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer convert ./Qwen3-0.6B qwen3-0.6b.pt
  $ chatspace-steer convert ./Qwen3-0.6B qwen3-0.6b-int8.pt --quantize int8
  $ chatspace-steer convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2.pt
  $ chatspace-steer inspect smollm2.pt`,
    )
    .action((source: string, output: string, flags: Flags) =>
      interruptible((signal) => convertModel(source, output, flags, signal)),
    );
}

async function convertModel(
  source: string,
  output: string,
  flags: Flags,
  signal: AbortSignal,
): Promise<void> {
  if (existsSync(output) && !flags.force)
    throw new UsageError(`expected an output that is not there yet, got ${output} (--force replaces it)`);
  const { convert } = await import("../../model/convert.ts");
  const bar = progressBar();
  const start = performance.now();
  const onProgress = (bytesDone: number, bytesTotal: number) =>
    bar.onProgress({ stage: "convert", name: output, bytesDone, bytesTotal });
  const { dtype = "auto", quantize = "none" } = flags;
  const options = { signal, onProgress, dtype, quantize };
  const metadata = await convert(source, output, options).finally(bar.end);
  const ms = performance.now() - start;
  const bytes = statSync(output).size;
  const { weights: _weights, ...described } = metadata;
  if (flags.json) printJson({ output, bytes, ms, ...described });
  else {
    printLine(output);
    note(
      `${metadata.architecture}, ${metadata.layers} layers, ${bytesText(bytes)}, ${(ms / 1000).toFixed(1)} s`,
    );
  }
}
