// SPDX-License-Identifier: Apache-2.0
// The prompt of a command: an argument, a file or standard input; raw, one message, or a conversation.

import type { Command } from "commander";
import type { ChatMessage } from "../../../model/chat-template.ts";
import { UsageError } from "../../exit-codes.ts";
import { argumentOrStdin, readInput } from "../../input.ts";

export interface PromptFlags {
  inputFile?: string;
  messages?: string;
  chat?: boolean;
  system?: string;
  specialTokens?: boolean;
}

export function addPromptOptions(command: Command): Command {
  return command
    .option("--input-file <file>", "read the text from a file (- = standard input)")
    .option("--chat", "the text is a message of the user: apply the model's chat template")
    .option("--system <text>", "with --chat: a system message before it")
    .option("--messages <file>", "a conversation: a JSON list of { role, content } (- = standard input)")
    .option("--no-special-tokens", "put no beginning-of-sequence token before a raw text");
}

/** The text, or the messages of a conversation. */
export async function promptOf(
  argument: string | undefined,
  flags: PromptFlags,
): Promise<string | ChatMessage[]> {
  const given = [argument, flags.inputFile, flags.messages].filter((value) => value !== undefined);
  if (given.length > 1)
    throw new UsageError("expected one of a text, --input-file and --messages, got several");
  if (flags.system !== undefined && !flags.chat) throw new UsageError("--system: expected --chat beside it");
  if (flags.messages !== undefined) {
    if (flags.chat) throw new UsageError("--chat and --messages: expected one of them");
    return parseMessages(flags.messages, await readInput(flags.messages));
  }
  const text =
    flags.inputFile === undefined
      ? await argumentOrStdin(argument, "a prompt")
      : await readInput(flags.inputFile);
  if (!flags.chat) return text;
  const system = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  return [...system, { role: "user", content: text }];
}

function parseMessages(file: string, json: string): ChatMessage[] {
  try {
    // PromptCompressor checks the shape of each message.
    return JSON.parse(json) as ChatMessage[];
  } catch (cause) {
    throw new UsageError(`--messages ${file}: expected a JSON list of messages, got ${String(cause)}`);
  }
}
