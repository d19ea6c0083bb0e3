#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The command line. Commands are listed here and live in commands/, each loading what it needs only when
// it runs, so that --help answers at once. The only place of the package that writes stdout or exits.

import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { register as registerCapture } from "./commands/capture.ts";
import { register as registerChat } from "./commands/chat.ts";
import { register as registerConvert } from "./commands/convert.ts";
import { register as registerDoctor } from "./commands/doctor.ts";
import { register as registerDownloadDataset } from "./commands/download-dataset.ts";
import { register as registerEmbedDataset } from "./commands/embed-dataset.ts";
import { register as registerEmbedHf } from "./commands/embed-hf.ts";
import { register as registerGenerate } from "./commands/generate.ts";
import { register as registerInspect } from "./commands/inspect.ts";
import { register as registerModels } from "./commands/models.ts";
import { register as registerPromptEmbeds } from "./commands/prompt-embeds.ts";
import { register as registerReduceEmbeddings } from "./commands/reduce-embeddings.ts";
import { register as registerRuler } from "./commands/ruler.ts";
import { register as registerSmoke } from "./commands/smoke.ts";
import { register as registerVisualizeEmbeddings } from "./commands/visualize-embeddings.ts";
import { register as registerWorker } from "./commands/worker.ts";
import { EXIT, ExitError, exitCodeOf } from "./exit-codes.ts";
import { InterruptError } from "./interrupt.ts";
import { reportError, reportErrorJson } from "./terminal.ts";

/** In the order of the help. A command is a file with `register(program)`. */
const COMMANDS = [
  registerSmoke,
  registerGenerate,
  registerChat,
  registerCapture,
  registerConvert,
  registerInspect,
  registerModels,
  registerRuler,
  registerPromptEmbeds,
  registerEmbedHf,
  registerEmbedDataset,
  registerDownloadDataset,
  registerWorker,
  registerReduceEmbeddings,
  registerVisualizeEmbeddings,
  registerDoctor,
];

function createProgram(): Command {
  const program = new Command("chatspace-steer")
    .description("Run, steer and read language models: TorchScript decoders on libtorch, without Python.")
    .version(packageVersion(), "-V, --version")
    .showHelpAfterError("(--help shows the options)")
    .exitOverride()
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer smoke --layer 16                          baseline, steered, restored
  $ chatspace-steer generate "Today I feel" --vector happy --scale 2 --layer 16
  $ chatspace-steer chat --vector calm --layer 16
  $ chatspace-steer convert ./Qwen3-0.6B qwen3.pt             an archive from a Hugging Face folder
  $ chatspace-steer doctor                                    what is missing on this machine

Exit codes: 0 ok, 1 failed, 2 usage, 3 environment, 4 data, 130 interrupted.`,
    );
  for (const register of COMMANDS) register(program);
  return program;
}

function packageVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

async function main(argv: readonly string[]): Promise<number> {
  // A reader that closes the pipe early (head) is no error of ours.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(EXIT.ok);
    throw error;
  });
  const program = createProgram();
  if (argv.length <= 2) {
    program.outputHelp();
    return EXIT.ok;
  }
  try {
    await program.parseAsync(argv);
    return EXIT.ok;
  } catch (error) {
    // Commander has printed its own message.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    if (error instanceof InterruptError) return EXIT.interrupted;
    if (!(error instanceof ExitError) || error.message !== "") {
      reportError(error);
      if (argv.includes("--json")) reportErrorJson(error);
    }
    return exitCodeOf(error);
  }
}

process.exitCode = await main(process.argv);
