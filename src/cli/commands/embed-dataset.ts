// SPDX-License-Identifier: Apache-2.0
// embed-dataset: a sample through an OpenAI-compatible endpoint; prints the plan unless told to spend.

import type { Command } from "commander";
import type { EndpointDatasetConfig } from "../../embed/endpoint-dataset.ts";
import { interruptible } from "../interrupt.ts";
import { naturalNumber, number, positiveInteger } from "../options.ts";
import { note, printJson } from "../terminal.ts";

export function register(program: Command): void {
  program
    .command("embed-dataset")
    .description(
      "embed a sample of a data set by an OpenAI-compatible endpoint; a plan first, --execute to spend",
    )
    .requiredOption("--dataset <name|path|glob>", "hub data set, local file, folder or glob")
    .option("--subset <name>", "configuration or subfolder")
    .option("--split <name>", "split", "train")
    .option("--revision <name>", "branch, tag or commit of a hub data set", "main")
    .option("--n <rows>", "rows of the sample (default: 100, or all if fewer)", positiveInteger)
    .option("--p <fraction>", "fraction of the rows instead", number)
    .option("--seed <n>", "seed of the sample", naturalNumber, 42)
    .option("--model <name>", "model (default: OPENAI_EMBED_MODEL, else text-embedding-3-small)")
    .option("--text-field <column>", "column to embed", "text")
    .option("--batch-size <n>", "rows of a request", positiveInteger, 128)
    .option("--endpoint <url>", "base URL (default: OPENAI_BASE_URL, else the public one)")
    .option("--output-root <folder>", "where everything goes", "./chatspace-data")
    .option("--execute", "ask the endpoint; without it nothing is sent")
    .option("--json", "only JSON on stdout (the plan always is)")
    .addHelpText(
      "after",
      `
Example:
  $ chatspace-steer embed-dataset --dataset ./texts --p 0.1               what it would send
  $ OPENAI_API_KEY=... chatspace-steer embed-dataset --dataset ./texts --p 0.1 --execute

Answers are kept as they come: a run that was stopped pays for nothing twice.`,
    )
    .action(async (flags: EndpointDatasetConfig & { json?: boolean }) => {
      const { embedByEndpoint } = await import("../../embed/endpoint-dataset.ts");
      const { json, ...config } = flags;
      const result = await interruptible((signal) =>
        embedByEndpoint(config, {
          signal,
          onProgress: (done, all) => {
            if (!json) note(`${done} of ${all} rows`);
          },
        }),
      );
      printJson(
        result.manifest === null
          ? result.plan
          : {
              plan: result.plan,
              manifest: result.manifest,
              requested: result.requested,
              reused: result.reused,
            },
      );
      if (result.manifest === null && !json) note("nothing was sent; add --execute to spend");
    });
}
