// SPDX-License-Identifier: Apache-2.0
// `capture`: hidden states of texts and conversations, to a file that is written while the model runs.

import { extname } from "node:path";
import type { Command } from "commander";
import { Option } from "commander";
import { DataError } from "../../errors.ts";
import type { CaptureFileOptions } from "../../model/capture-files.ts";
import type { ChatMessage } from "../../model/chat-template.ts";
import type { SteerModel } from "../../model/steer-model.ts";
import { UsageError } from "../exit-codes.ts";
import { readInput } from "../input.ts";
import { interruptible } from "../interrupt.ts";
import {
  addModelOptions,
  addSteeringOptions,
  collect,
  defined,
  loadModel,
  type ModelFlags,
  naturalNumber,
  positiveInteger,
  type SteeringFlags,
  steeringOf,
} from "../options.ts";
import { note, printJson, printLine, progressBar } from "../terminal.ts";

interface Flags extends ModelFlags, Omit<SteeringFlags, "layer" | "site"> {
  output: string;
  at: string[];
  field: string;
  rows?: "all" | "prompt" | "generation";
  message?: string[];
  pool: "none" | "mean" | "last" | "first";
  poolBy: "request" | "message";
  maxTokens: number;
  store: NonNullable<CaptureFileOptions["dtype"]>;
  together: number;
  json?: boolean;
}

const ENDINGS = [".safetensors", ".arrow", ".npy"];

export function register(program: Command): void {
  const command = program
    .command("capture")
    .description("Write hidden states of texts to a .safetensors, .arrow or .npy file.")
    .argument(
      "[input]",
      "text file (one text a line) or .jsonl (objects with a text or a conversation); - = standard input",
      "-",
    )
    .requiredOption("-o, --output <file>", "file to write: .safetensors, .arrow, or .npy for a single site")
    .requiredOption(
      "-a, --at <site>",
      'layer number or site to read, or "layers" for all (repeatable)',
      collect,
    );
  addSteeringOptions(addModelOptions(command))
    .option("--field <name>", "field of the JSON objects that holds the text or the messages", "text")
    .addOption(
      new Option("--pool <how>", "one row a text over its tokens, or every row")
        .choices(["none", "mean", "last", "first"])
        .default("none"),
    )
    .addOption(
      new Option("--pool-by <what>", "with --pool: a row a text, or a row a message of conversations")
        .choices(["request", "message"])
        .default("request"),
    )
    .option("-n, --max-tokens <n>", "tokens to generate after each text, read too", naturalNumber, 0)
    .addOption(new Option("--rows <which>", "rows to read").choices(["all", "prompt", "generation"]))
    .option("--message <which>", "of conversations: an index, a role, or answer (repeatable)", collect)
    .addOption(
      new Option("--store <dtype>", "what the rows are stored as")
        .choices(["float32", "bfloat16", "float16"])
        .default("float32"),
    )
    .option("--together <n>", "texts that run at once", positiveInteger, 32)
    .option("--json", "print what was written as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer capture prompts.txt -o states.safetensors --at 8 --at 16
  $ chatspace-steer capture data.jsonl --field question -o last.npy --at -1 --pool last
  $ chatspace-steer capture prompts.txt -o steered.safetensors --at 20 --vector happy --layer 16
  $ chatspace-steer capture chats.jsonl --field messages --message answer -n 64 -o answers.arrow --at layers

The file grows while the model runs and appears under its name when it is whole. Beside the sites it has
the columns "text" and "position", and "message" for conversations: which text, token and message a row is of.`,
    )
    .action((input: string, flags: Flags & SteeringFlags) =>
      interruptible((signal) => capture(input, flags, signal)),
    );
}

async function capture(input: string, flags: Flags & SteeringFlags, signal: AbortSignal): Promise<void> {
  const ending = extname(flags.output).toLowerCase();
  if (!ENDINGS.includes(ending))
    throw new UsageError(`expected --output to end in ${ENDINGS.join(", ")}, got ${flags.output}`);
  if (ending === ".npy" && (flags.at.length > 1 || flags.at[0] === "layers"))
    throw new UsageError("expected one --at for a .npy file, got several (.safetensors holds several)");
  const prompts = parsePrompts(await readInput(input), input, flags.field);
  const steering = await steeringOf(flags);
  const model = await loadModel(flags, signal);
  const bar = progressBar();
  let done = 0;
  try {
    const written = await model.captureToFile(flags.output, prompts, {
      ...defined({
        phase: flags.rows,
        messages: flags.message?.map((text) => (/^-?\d+$/.test(text) ? Number(text) : text)),
      }),
      sites: sitesOf(flags.at, model),
      pool: flags.pool,
      poolBy: flags.poolBy,
      maxTokens: flags.maxTokens,
      dtype: flags.store,
      together: flags.together,
      steering,
      signal,
      onResult: () => {
        done++;
        bar.onProgress({
          stage: "capture",
          name: `${done}/${prompts.length} texts`,
          bytesDone: done,
          bytesTotal: prompts.length,
        });
      },
    });
    bar.end();
    const { path: output, shapes } = written;
    if (flags.json) printJson({ output, model: model.info.name, texts: prompts.length, shapes });
    else {
      printLine(output);
      for (const [site, shape] of Object.entries(shapes)) note(`${site} [${shape.join(", ")}]`);
    }
  } finally {
    bar.end();
    await model.dispose();
  }
}

function sitesOf(at: readonly string[], model: SteerModel): (number | string)[] {
  return at.flatMap((text) => {
    if (text === "layers") return Array.from({ length: model.info.layers }, (_, layer) => layer);
    return [/^-?\d+$/.test(text) ? Number(text) : text];
  });
}

/** Lines of text, or the field of JSON lines (text or messages) when the first line is an object. */
function parsePrompts(content: string, name: string, field: string): (string | ChatMessage[])[] {
  const lines = content.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (lines.length === 0)
    throw new DataError("ERR_INPUT_EMPTY", `${name}: expected at least one text, got none`);
  if (!lines[0]!.trimStart().startsWith("{")) return lines;
  return lines.map((line, index) => {
    const where = `${name}, line ${index + 1}`;
    let record: Record<string, unknown>;
    try {
      record = JSON.parse(line) as Record<string, unknown>;
    } catch (cause) {
      throw new DataError(
        "ERR_INPUT_FORMAT",
        `${where}: expected a JSON object, got ${(cause as Error).message}`,
        { cause },
      );
    }
    const text = record[field];
    if (typeof text === "string" && text !== "") return text;
    // What is no conversation is refused by the model, with its line's number as that of the prompt.
    if (Array.isArray(text) && text.length > 0) return text as ChatMessage[];
    throw new DataError(
      "ERR_INPUT_FORMAT",
      `${where}: expected text in the field "${field}", got ${Object.keys(record).join(", ")}`,
      {
        details: { where, field, fields: Object.keys(record) },
        remedies: ["name the field with --field"],
      },
    );
  });
}
