// SPDX-License-Identifier: Apache-2.0
// `models` and `pull`: which models and vectors can be named, and fetching one beforehand.

import type { Command } from "commander";
import { UsageError } from "../exit-codes.ts";
import { interruptible } from "../interrupt.ts";
import { bytesText, note, printJson, printLine, progressBar, table } from "../terminal.ts";

interface Flags {
  json?: boolean;
}

interface PullFlags extends Flags {
  revision?: string;
  file?: string;
}

export function register(program: Command): void {
  const models = program
    .command("models")
    .description("List the models and vectors that have a name; fetch or remove one.")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer models
  $ chatspace-steer models pull smollm2-135m-instruct
  $ CHATSPACE_CACHE=/data/cache chatspace-steer models list --json`,
    );
  models
    .command("list", { isDefault: true })
    .description("what can be named, and whether it is at hand")
    .option("--json", "print the list as JSON")
    .action(list);
  addPull(models.command("pull"));
  addPull(program.command("pull")).addHelpText(
    "after",
    `
Examples:
  $ chatspace-steer pull HuggingFaceTB/SmolLM2-135M-Instruct
  $ chatspace-steer pull Qwen/Qwen3-0.6B --revision main
  $ chatspace-steer pull bartowski/Llama-3.2-1B-Instruct-GGUF --file Q8_0
  $ HF_ENDPOINT=https://mirror.example chatspace-steer pull org/name
  $ chatspace-steer chat -m org/name                          pulls by itself

The files lie where Python's hub client looks for them too (HF_HUB_CACHE, HF_HOME), and what it has fetched
is not fetched again. HF_TOKEN opens private and gated repositories. A pull that was cut goes on where it
ended when it is run again.`,
  );
  models
    .command("remove")
    .description("remove a model's files from our cache (not from the folder other hub clients share)")
    .argument("<name>", "name of the model")
    .action(async (name: string) => {
      const { removeModel } = await import("../../model/store.ts");
      await removeModel(name);
      note(`removed ${name} from the cache`);
    });
}

async function list(flags: Flags): Promise<void> {
  const [{ DEFAULT_MODEL, listModels }, { listNamedVectors }] = await Promise.all([
    import("../../model/store.ts"),
    import("../../steering/vector-names.ts"),
  ]);
  const models = listModels();
  const vectors = await listNamedVectors();
  if (flags.json) {
    printJson({ default: DEFAULT_MODEL, models, vectors: vectors.map((vector) => vector.name) });
    return;
  }
  const rows = models.map(({ name, title, licence, state, bytes }) => [
    name === DEFAULT_MODEL ? `${name} (default)` : name,
    state,
    bytesText(bytes),
    licence,
    title,
  ]);
  printLine(table([["model", "state", "size", "licence", ""], ...rows]));
  printLine();
  printLine(`vectors of ${DEFAULT_MODEL}: ${vectors.map((vector) => vector.name).join(", ") || "none"}`);
}

function addPull(command: Command): Command {
  return command
    .description("Fetch a model, every file verified by its hash, and convert it.")
    .argument("<name>", "org/name on a hub, org/name@revision:file, or a name that `models` lists")
    .option("--revision <revision>", "branch, tag or commit (default: main)")
    .option("--file <gguf>", "a GGUF file of the repository, or a part of its name: Q8_0")
    .option("--json", "print the result as JSON")
    .action((name: string, flags: PullFlags) => interruptible((signal) => pull(name, flags, signal)));
}

async function pull(name: string, flags: PullFlags, signal: AbortSignal): Promise<void> {
  const { pullModel } = await import("../../model/store.ts");
  const whole = await nameOf(name, flags);
  const bar = progressBar();
  const path = await pullModel(whole, { signal, onProgress: bar.onProgress }).finally(bar.end);
  if (flags.json) printJson({ name: whole, path });
  else printLine(path);
  note(`SteerModel.load("${whole}") and -m ${whole} take it from the cache`);
}

async function nameOf(name: string, { revision, file }: PullFlags): Promise<string> {
  if (revision === undefined && file === undefined) return name;
  const { checkRevision, formatHubName, parseHubName } = await import("../../model/hub/place.ts");
  const parsed = parseHubName(name);
  if (!parsed) throw new UsageError(`expected org/name beside --revision and --file, got ${name}`);
  return formatHubName({
    ...parsed,
    ...(revision === undefined ? {} : { revision: checkRevision(revision) }),
    ...(file === undefined ? {} : { file }),
  });
}
