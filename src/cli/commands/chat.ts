// SPDX-License-Identifier: Apache-2.0
// `chat`: one message, or a conversation on a terminal.

import { createInterface } from "node:readline/promises";
import type { Command } from "commander";
import type { ChatMessage } from "../../model/chat-template.ts";
import type { SteerModel } from "../../model/steer-model.ts";
import type { SteeringOperation } from "../../steering/program.ts";
import { argumentOrStdin } from "../input.ts";
import { InterruptError, interruptible } from "../interrupt.ts";
import {
  addModelOptions,
  addSamplingOptions,
  addSteeringOptions,
  loadModel,
  type ModelFlags,
  type SamplingFlags,
  type SteeringFlags,
  samplingOf,
  steeringOf,
} from "../options.ts";
import { note, print, printJson, printLine, styled } from "../terminal.ts";
import { summarize } from "./generate.ts";

interface Flags extends ModelFlags, SteeringFlags, SamplingFlags {
  system?: string;
  prefill?: string;
  json?: boolean;
}

const HELP = "/scale N  change the strength    /reset  forget the conversation    /exit  leave (also Ctrl-D)";

export function register(program: Command): void {
  const command = program
    .command("chat")
    .description("Answer a message in the model's chat format; without one, hold a conversation.")
    .argument("[message]", "the user's message (default: a conversation on a terminal, else standard input)");
  addSamplingOptions(addSteeringOptions(addModelOptions(command)))
    .option("--system <text>", "system message")
    .option("--prefill <text>", "the answer begins with this text")
    .option("--json", "print the whole response as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer chat "Describe your day in two sentences."
  $ chatspace-steer chat "Describe your day." --vector happy --scale 2 --layer 16
  $ chatspace-steer chat --system "You answer briefly." -v calm -l 16     a conversation
  $ chatspace-steer chat "Is it raining?" --prefill "Well," --json`,
    )
    .action((message: string | undefined, flags: Flags) => {
      const talk =
        message === undefined && !flags.json && process.stdin.isTTY === true && process.stdout.isTTY;
      return talk ? converse(flags) : interruptible((signal) => answer(message, flags, signal));
    });
}

function systemMessages(flags: Flags): ChatMessage[] {
  return flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
}

function chatOptions(flags: Flags, steering: SteeringOperation[], signal: AbortSignal) {
  const prefill = flags.prefill === undefined ? {} : { prefill: flags.prefill };
  return { maxTokens: 512, ...samplingOf(flags), ...prefill, steering, signal };
}

async function answer(argument: string | undefined, flags: Flags, signal: AbortSignal): Promise<void> {
  const content = await argumentOrStdin(argument, "a message");
  const messages = [...systemMessages(flags), { role: "user", content }];
  const steering = await steeringOf(flags);
  const model = await loadModel(flags, signal);
  try {
    const options = chatOptions(flags, steering, signal);
    if (flags.json) printJson({ model: model.info.name, ...(await model.chat(messages, options)) });
    else await streamAnswer(model, messages, options);
  } finally {
    await model.dispose();
  }
}

async function streamAnswer(
  model: SteerModel,
  messages: readonly ChatMessage[],
  options: ReturnType<typeof chatOptions>,
): Promise<string> {
  print(options.prefill ?? "");
  const stream = model.chatStream(messages, options);
  for await (const { text } of stream) print(text);
  printLine();
  const result = await stream.result;
  summarize(result);
  return (options.prefill ?? "") + result.text;
}

/** A conversation. Ctrl-C ends the answer that is being made; at the prompt it ends the conversation. */
async function converse(flags: Flags): Promise<void> {
  let steering = await steeringOf(flags);
  const model = await interruptible((signal) => loadModel(flags, signal));
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  let running: AbortController | undefined;
  let leave: (() => void) | undefined;
  terminal.on("SIGINT", () => {
    if (running) running.abort(new InterruptError("interrupted"));
    else leave?.();
  });
  try {
    note(`${model.info.name} on ${model.info.device}. ${HELP}`);
    let messages = systemMessages(flags);
    for (;;) {
      const line = await Promise.race([
        terminal.question(styled(process.stdout, "cyan", "> ")).catch(() => undefined),
        new Promise<undefined>((resolve) => {
          leave = () => resolve(undefined);
          terminal.once("close", leave);
        }),
      ]);
      if (line === undefined || line.trim() === "/exit") return;
      const scale = /^\/scale\s+(-?[\d.]+)\s*$/.exec(line);
      if (line.trim() === "/reset") messages = systemMessages(flags);
      else if (scale) steering = steering.map((operation) => ({ ...operation, scale: Number(scale[1]) }));
      else if (line.startsWith("/")) note(HELP);
      else if (line.trim() !== "") {
        running = new AbortController();
        const next = [...messages, { role: "user", content: line }];
        try {
          const content = await streamAnswer(model, next, chatOptions(flags, steering, running.signal));
          messages = [...next, { role: "assistant", content }];
        } catch (error) {
          if (!(error instanceof InterruptError)) throw error;
          printLine();
          note("[stopped; this turn is forgotten]");
        } finally {
          running = undefined;
        }
      }
    }
  } finally {
    terminal.close();
    await model.dispose();
  }
}
