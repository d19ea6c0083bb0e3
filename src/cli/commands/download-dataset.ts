// SPDX-License-Identifier: Apache-2.0
// download-dataset: fetch a data set's files into the cache and describe them.

import type { Command } from "commander";
import { note, printJson, printLine } from "../terminal.ts";

interface Flags {
  name: string;
  subset?: string;
  split: string;
  revision: string;
  outputRoot: string;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("download-dataset")
    .description("fetch a data set from the hub (HF_ENDPOINT, HF_TOKEN) and write dataset.json")
    .requiredOption("--name <name|path|glob>", "hub data set, local file, folder or glob")
    .option("--subset <name>", "configuration or subfolder")
    .option("--split <name>", "split", "train")
    .option("--revision <name>", "branch, tag or commit", "main")
    .option("--source <name>", "accepted for chatspace's users; found out by itself", "huggingface")
    .option("--output-root <folder>", "where everything goes", "./chatspace-data")
    .option("--json", "the description on stdout")
    .action(async (flags: Flags) => {
      const { downloadDataset } = await import("../../data/download.ts");
      const { description, path } = await downloadDataset({ ...flags, subset: flags.subset ?? null });
      if (flags.json) printJson(description);
      else {
        note(`${description.num_rows} rows in ${description.files.length} ${description.format} files`);
        printLine(path);
      }
    });
}
