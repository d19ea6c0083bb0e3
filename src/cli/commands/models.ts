// SPDX-License-Identifier: Apache-2.0
// `models`: which models and vectors can be named, and fetching one beforehand.

import type { Command } from "commander";
import { interruptible } from "../interrupt.ts";
import { bytesText, note, printJson, printLine, progressBar, table } from "../terminal.ts";

interface Flags {
  json?: boolean;
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
  models
    .command("pull")
    .description("fetch a model, once, verified by its sha256, and convert it")
    .argument("<name>", "name of the model")
    .option("--json", "print the result as JSON")
    .action((name: string, flags: Flags) => interruptible((signal) => pull(name, flags, signal)));
  models
    .command("remove")
    .description("remove a model's files from the cache")
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

async function pull(name: string, flags: Flags, signal: AbortSignal): Promise<void> {
  const { pullModel } = await import("../../model/store.ts");
  const bar = progressBar();
  const path = await pullModel(name, { signal, onProgress: bar.onProgress }).finally(bar.end);
  if (flags.json) printJson({ name, path });
  else printLine(path);
}
