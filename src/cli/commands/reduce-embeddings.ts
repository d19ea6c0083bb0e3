// SPDX-License-Identifier: Apache-2.0
// reduce-embeddings: vectors to two or three coordinates, by UMAP, t-SNE or principal components.

import { type Command, Option } from "commander";
import type { ReduceConfig } from "../../embed/reduce/reduce.ts";
import { naturalNumber, number, positiveInteger } from "../options.ts";
import { note, printJson, printLine } from "../terminal.ts";

export function register(program: Command): void {
  program
    .command("reduce-embeddings")
    .description("reduce embeddings to points for visualize-embeddings")
    .requiredOption("--embedding-dirs <folders...>", "folders with shards: embeddings/MODEL/DATASET/SPLIT")
    .requiredOption("--output <file.parquet>", "points; a .json beside it says how they were made")
    .addOption(new Option("--method <name>", "how").choices(["umap", "tsne", "pca"]).default("umap"))
    .option("--n-components <n>", "2 or 3", positiveInteger, 2)
    .option("--max-samples <n>", "most rows of each folder, drawn over all its shards", positiveInteger)
    .option("--sample-seed <n>", "seed of the sample", naturalNumber, 42)
    .option("--seed <n>", "seed of the method", naturalNumber, 42)
    .option("--n-neighbors <n>", "umap: neighbours of a point", positiveInteger, 15)
    .option("--min-dist <number>", "umap: how close points may lie", number, 0.1)
    .addOption(new Option("--metric <name>", "distance").choices(["cosine", "euclidean"]).default("cosine"))
    .option("--perplexity <number>", "tsne: neighbours a point counts with", number, 30)
    .option("--json", "the summary on stdout")
    .action(async (flags: ReduceConfig & { json?: boolean }) => {
      const { reduceEmbeddings } = await import("../../embed/reduce/reduce.ts");
      const { json, ...config } = flags;
      let last = "";
      const { summary, output } = await reduceEmbeddings(config, (phase, done, all) => {
        const step = `${phase} ${Math.floor((10 * done) / Math.max(all, 1)) * 10}%`;
        if (step !== last && !json) note(step);
        last = step;
      });
      if (json) printJson(summary);
      else {
        note(`${summary.n_samples} points in ${summary.seconds.toFixed(1)} s`);
        printLine(output);
      }
    });
}
