// SPDX-License-Identifier: Apache-2.0
// `generate`: continue a text, steered if asked.

import type { Command } from "commander";
import type { GenerateResult } from "../../model/results.ts";
import { argumentOrStdin } from "../input.ts";
import { interruptible } from "../interrupt.ts";
import {
  addModelOptions,
  addSamplingOptions,
  addSteeringOptions,
  loadModel,
  type ModelFlags,
  naturalNumber,
  type SamplingFlags,
  type SteeringFlags,
  samplingOf,
  steeringOf,
} from "../options.ts";
import { note, print, printJson, printLine, warn } from "../terminal.ts";

interface Flags extends ModelFlags, SteeringFlags, SamplingFlags {
  logprobs?: number;
  json?: boolean;
}

export function register(program: Command): void {
  const command = program
    .command("generate")
    .description("Continue a text; the answer streams to stdout.")
    .argument("[prompt]", "the text (default: standard input)");
  addSamplingOptions(addSteeringOptions(addModelOptions(command)))
    .option("--logprobs <k>", "with --json: log-probabilities, and the k best beside each", naturalNumber)
    .option("--json", "print the whole result as JSON when it is done")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer generate "Once upon a time" -n 60
  $ chatspace-steer generate "Today I feel" --vector happy --scale 2 --layer 16
  $ chatspace-steer generate "I opened the letter and read:" -v sad -s 2 -l 16 -t 0.8 --seed 7
  $ chatspace-steer generate "Hello" -v happy --op cap --min 0 --max 4 -l 16 --json
  $ echo "The theory of evolution says that" | chatspace-steer generate`,
    )
    .action((prompt: string | undefined, flags: Flags) =>
      interruptible((signal) => generate(prompt, flags, signal)),
    );
}

async function generate(argument: string | undefined, flags: Flags, signal: AbortSignal): Promise<void> {
  const prompt = await argumentOrStdin(argument, "a prompt");
  const steering = await steeringOf(flags);
  const model = await loadModel(flags, signal);
  try {
    const logprobs = flags.logprobs === undefined ? {} : { logprobs: flags.logprobs };
    const options = { ...samplingOf(flags), ...logprobs, steering, signal };
    if (flags.json) {
      const { promptTokens, ...result } = await model.generate(prompt, options);
      printJson({ model: model.info.name, prompt, promptTokens, ...result });
      return;
    }
    print(prompt);
    const stream = model.stream(prompt, options);
    for await (const { text } of stream) print(text);
    printLine();
    summarize(await stream.result);
  } finally {
    await model.dispose();
  }
}

/** What happened, on stderr: speed, why it ended, and the proof of steering. */
export function summarize(result: GenerateResult): void {
  const { usage, timing, finishReason, steering } = result;
  const rate = timing.generateMs > 0 ? (usage.generatedTokens / timing.generateMs) * 1000 : 0;
  note(
    `[${usage.promptTokens} + ${usage.generatedTokens} tokens, ${rate.toFixed(1)} tokens/s, ${finishReason}]`,
  );
  if (steering.length > 0) {
    const sites = steering.length <= 4 ? steering : steering.slice(0, 3);
    const list = sites.map(
      (s) => `${s.op} at ${s.site}: ${s.rows} rows, |change| ${s.meanChangeNorm.toFixed(3)}`,
    );
    if (steering.length > sites.length) list.push(`and ${steering.length - sites.length} more sites`);
    note(`[steered: ${list.join("; ")}]`);
  }
  for (const warning of result.warnings) warn(warning);
}
