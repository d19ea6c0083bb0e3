// SPDX-License-Identifier: Apache-2.0
// `prompt-embeds send`: embeddings of a file to a server that takes them.

import { type Command, Option } from "commander";
import type { WireDtype } from "../../../memory/embedding-files.ts";
import type { PromptEmbedsApi, PromptEmbedsRequestOptions } from "../../../memory/send-request.ts";
import { UsageError } from "../../exit-codes.ts";
import { interruptible } from "../../interrupt.ts";
import { collect, defined, naturalNumber, number, positiveInteger } from "../../options.ts";
import { note, print, printJson, printLine, warn } from "../../terminal.ts";

interface Flags {
  url: string;
  model: string;
  api: PromptEmbedsApi;
  before?: string;
  after?: string;
  system?: string;
  wireDtype: WireDtype;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  presencePenalty?: number;
  seed?: number;
  stop?: string[];
  body?: string;
  apiKeyEnv: string;
  timeout?: number;
  tries?: number;
  dryRun?: boolean;
  json?: boolean;
}

export function registerSend(parent: Command): void {
  parent
    .command("send")
    .description("Send embeddings to a vLLM server; the answer goes to stdout.")
    .argument("<embeddings>", "file of `prompt-embeds build`")
    .option("--url <url>", "address of the server", "http://localhost:8000/v1")
    .requiredOption("-m, --model <name>", "the model's name at the server")
    .addOption(
      new Option(
        "--api <form>",
        "completions (the whole prompt), chat (vLLM's part), embedding (the fork's part)",
      )
        .choices(["completions", "chat", "embedding"])
        .default("completions"),
    )
    .option("--before <text>", "chat forms: text of the message before the embeddings")
    .option("--after <text>", "chat forms: text of the message after the embeddings")
    .option("--system <text>", "chat forms: a system message")
    .addOption(
      new Option("--wire-dtype <dtype>", "dtype of the tensor that is sent")
        .choices(["float32", "float16", "bfloat16"])
        .default("float32"),
    )
    .option("-n, --max-tokens <n>", "most tokens to generate (default: 512)", positiveInteger)
    .option("-t, --temperature <number>", "0 = most likely token (default: 0)", number)
    .option("--top-p <number>", "sample among the most likely that hold this probability", number)
    .option("--presence-penalty <number>", "taken from the logit of tokens that were generated", number)
    .option("--seed <n>", "seed of the sampling", naturalNumber)
    .option("--stop <text>", "end at this text (repeatable)", collect)
    .option("--body <json>", "more keys of the request, such as '{\"top_k\": 20}'")
    .option("--api-key-env <name>", "variable that holds the server's key", "VLLM_API_KEY")
    .option("--timeout <seconds>", "time limit of one try (default: 300)", number)
    .option("--tries <n>", "tries in all (default: 3)", positiveInteger)
    .option("--dry-run", "print the request, send nothing")
    .option("--json", "print the whole answer as JSON")
    .addHelpText(
      "after",
      `
For completions the embeddings are the whole prompt: build them with --chat. For the chat forms the server
applies its template around them: build them from the content alone, raw and with --no-special-tokens.

Examples:
  $ chatspace-steer prompt-embeds send prompt.npy -m llm --dry-run
  $ chatspace-steer prompt-embeds send prompt.npy -m llm --url http://gpu:8000/v1 -n 200
  $ chatspace-steer prompt-embeds send book.npy -m llm --api chat --after "What is this about?"
  $ chatspace-steer prompt-embeds send book.npy -m llm --api embedding --before "<|fim_pad|> What is this about?"`,
    )
    .action((file: string, flags: Flags) => interruptible((signal) => send(file, flags, signal)));
}

async function send(file: string, flags: Flags, signal: AbortSignal): Promise<void> {
  const { readPromptEmbeddings } = await import("../../../memory/embedding-files.ts");
  const { printableRequest, promptEmbedsRequest, requestWarnings } = await import(
    "../../../memory/send-request.ts"
  );
  const { url, model, api, wireDtype, maxTokens, temperature, topP, presencePenalty, seed, stop } = flags;
  const { before, after, system } = flags;
  const apiKey = process.env[flags.apiKeyEnv] || undefined;
  const options: PromptEmbedsRequestOptions = {
    ...{ url, model, api, dtype: wireDtype },
    ...defined({ before, after, system, maxTokens, temperature, topP, presencePenalty, seed, stop, apiKey }),
    ...defined({ extraBody: parseBody(flags.body) }),
  };
  const { prompt } = readPromptEmbeddings(file);
  const request = promptEmbedsRequest(prompt, options);
  for (const warning of requestWarnings(api, options)) warn(warning);
  note(`[${prompt.shape[0]} rows of ${prompt.shape[1]} to ${request.url}]`);
  if (flags.dryRun) {
    // A person wants to read it; a pipe gets every byte.
    printJson(printableRequest(request, process.stdout.isTTY ? "count" : "whole"));
    return;
  }
  const { sendPromptEmbeds } = await import("../../../memory/send.ts");
  const { timeout, tries } = flags;
  const timeoutMs = timeout === undefined ? undefined : timeout * 1000;
  const answer = await sendPromptEmbeds(request, { ...defined({ timeoutMs, tries }), signal });
  if (flags.json) return printJson(answer.body);
  print(answer.text);
  printLine();
  if (answer.finishReason !== null) note(`[${answer.finishReason}]`);
}

function parseBody(text: string | undefined): Record<string, unknown> | undefined {
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  throw new UsageError(`--body: expected a JSON object, got ${text.slice(0, 80)}`);
}
