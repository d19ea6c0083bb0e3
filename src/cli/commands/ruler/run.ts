// SPDX-License-Identifier: Apache-2.0
// `ruler run`: prepared prompts answered by a model here or by a server.

import type { Command } from "commander";
import type { Generator, RunProgress } from "../../../ruler/run.ts";
import { UsageError } from "../../exit-codes.ts";
import { interruptible } from "../../interrupt.ts";
import {
  addModelOptions,
  addVectorOptions,
  defined,
  loadModel,
  type ModelFlags,
  number,
  positiveInteger,
} from "../../options.ts";
import { note, printJson, printLine, table } from "../../terminal.ts";
import { type ProgramFlags, programOf, STEERING_HELP } from "./steering.ts";

interface RunFlags extends ModelFlags, ProgramFlags {
  data: string;
  output: string;
  task?: string;
  subset?: string;
  endpoint?: string;
  api?: "completions" | "chat";
  apiKeyEnv?: string;
  concurrency?: number;
  tries?: number;
  timeout?: number;
  body?: string;
  batch?: number;
  chat?: boolean;
  limit?: number;
  maxTokens?: number;
  label?: string;
  resume?: boolean;
  overwrite?: boolean;
  json?: boolean;
}

export function registerRun(ruler: Command): void {
  const command = ruler
    .command("run")
    .description("Answer prepared prompts with a model (steered if asked) or an OpenAI-compatible server.")
    .requiredOption("--data <dir>", "folder of `ruler prepare`")
    .requiredOption("-o, --output <dir>", "folder for the predictions")
    .option("--task <names>", "task names joined with commas (default: all the data has)")
    .option("--subset <name>", "name of the data files (default: validation)")
    .option("--endpoint <url>", "ask this server in place of a model here: http://host:8000/v1")
    .option("--api <form>", "completions or chat", "completions")
    .option("--api-key-env <name>", "variable that holds the server's key", "OPENAI_API_KEY")
    .option("--concurrency <n>", "requests at once (default: 4)", positiveInteger)
    .option("--tries <n>", "tries of one prompt (default: 6)", positiveInteger)
    .option("--timeout <seconds>", "time limit of one try (default: 600)", number)
    .option("--body <json>", "more keys for the server, such as '{\"steering\": [...]}'");
  addVectorOptions(addModelOptions(command))
    .option("--steering <file>", STEERING_HELP)
    .option("--batch <n>", "prompts that run together in a model here (default: 8)", positiveInteger)
    .option("--chat", "a model here: ask in its chat format, the answer prefix as the beginning of its turn")
    .option("--limit <n>", "first samples of each task only", positiveInteger)
    .option("-n, --max-tokens <n>", "tokens of an answer (default: the task's own)", positiveInteger)
    .option("--label <name>", "name of this run in reports")
    .option("--resume", "go on with an earlier run")
    .option("--overwrite", "throw an earlier run away")
    .option("--json", "print what was written as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer ruler run --data data/4k -o runs/plain-4k
  $ chatspace-steer ruler run --data data/4k -o runs/happy-4k -v happy -s 2 -l 16 --label happy
  $ chatspace-steer ruler run --data data/4k -o runs/server-4k --endpoint http://localhost:8000/v1 -m my-model --resume`,
    )
    .action((flags: RunFlags) => interruptible((signal) => run(flags, signal)));
}

async function run(flags: RunFlags, signal: AbortSignal): Promise<void> {
  const { runTasks } = await import("../../../ruler/run.ts");
  await using target = await openGenerator(flags, signal);
  const { data, output, task, subset, resume, overwrite, limit, maxTokens } = flags;
  const steered = flags.vector === undefined ? flags.steering : `${flags.vector} x ${flags.scale ?? 1}`;
  const finished = await runTasks({
    ...{ data, output, signal, generator: target.generator, onProgress: progressNotes() },
    ...defined({ task, subset, resume, overwrite, limit, maxTokens, label: flags.label ?? steered }),
  });
  if (flags.json) return printJson(finished);
  printLine(table(finished.map((f) => [f.task, `${f.rows} answers`, `${f.resumed} from before`, f.file])));
}

interface Target extends AsyncDisposable {
  readonly generator: Generator;
}

async function openGenerator(flags: RunFlags, signal: AbortSignal): Promise<Target> {
  if (flags.endpoint !== undefined) {
    const { endpointGenerator } = await import("../../../ruler/generators/endpoint.ts");
    if (flags.api !== "completions" && flags.api !== "chat")
      throw new UsageError(`--api: expected completions or chat, got ${flags.api}`);
    if (flags.vector !== undefined || flags.steering !== undefined)
      throw new UsageError("--vector steers a model here; a server takes --body '{\"steering\": ...}'");
    note(`asking ${flags.endpoint} for model ${flags.model}`);
    const apiKey = process.env[flags.apiKeyEnv ?? "OPENAI_API_KEY"];
    const { concurrency, tries, timeout } = flags;
    const timeoutMs = timeout === undefined ? undefined : timeout * 1000;
    const generator = endpointGenerator({
      ...{ url: flags.endpoint, model: flags.model, api: flags.api },
      ...defined({ apiKey, concurrency, tries, timeoutMs, extraBody: parseBody(flags.body) }),
    });
    return { generator, async [Symbol.asyncDispose]() {} };
  }
  const { steerModelGenerator } = await import("../../../ruler/generators/steer-model.ts");
  const steering = await programOf(flags);
  const model = await loadModel(flags, signal);
  const { batch, chat } = flags;
  const generator = steerModelGenerator(model, { steering, ...defined({ batch, chat }) });
  return { generator, [Symbol.asyncDispose]: () => model.dispose() };
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

/** A line on stderr for each tenth of a task. */
function progressNotes(): (progress: RunProgress) => void {
  let told = "";
  return ({ task, done, total }) => {
    const step = `${task} ${Math.floor((done / Math.max(1, total)) * 10)}`;
    if (step === told) return;
    told = step;
    note(`${task}: ${done} of ${total}`);
  };
}
