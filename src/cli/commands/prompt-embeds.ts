// SPDX-License-Identifier: Apache-2.0
// `prompt-embeds`: prompts with compressed memories. Embeddings from a checkpoint, text from embeddings
// here or at a server.

import type { Command } from "commander";
import { registerBuild } from "./prompt-embeds/build.ts";
import { registerGenerate } from "./prompt-embeds/generate.ts";
import { registerRun } from "./prompt-embeds/run.ts";
import { registerSend } from "./prompt-embeds/send.ts";

export function register(program: Command): void {
  const command = program
    .command("prompt-embeds")
    .description(
      "Compress <|memory_start|>...<|memory_end|> spans into prompt embeddings; generate from them.",
    );
  registerBuild(command);
  registerGenerate(command);
  registerRun(command);
  registerSend(command);
}
