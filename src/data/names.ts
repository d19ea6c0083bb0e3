// SPDX-License-Identifier: Apache-2.0
// Where a run keeps its files. The layout and the spelling of folder names are those of the Python
// chatspace, so that its users and tools find shards and manifests where they expect them.

import { join } from "node:path";

/**
 * Makes one path component of a model, data set or split name: letters, digits, "-" and "_" stay,
 * "/" becomes "__", anything else "-"; runs of "-" collapse and are stripped at both ends.
 */
export function sanitizeComponent(name: string): string {
  const safe = name
    .replaceAll("/", "__")
    .replace(/[^\p{L}\p{N}_-]/gu, "-")
    .replace(/-{2,}/g, "-")
    .replace(/^-+|-+$/g, "");
  return safe === "" ? "unnamed" : safe;
}

/** What names a run: everything below the root is a function of these. */
export interface RunName {
  root: string;
  model: string;
  dataset: string;
  subset: string | null;
  split: string;
}

/** The folders and files of a run. */
export interface RunPaths {
  /** `{root}/embeddings/{model}/{dataset[__subset]}/{split}` */
  embeddings: string;
  /** `{root}/indexes/{model}/{dataset[__subset]}` */
  indexes: string;
  cache: string;
  logs: string;
  manifest: string;
  runSummary: string;
  journal: string;
  lock: string;
}

/** Builds the paths of a run; creates nothing. */
export function runPaths(name: RunName): RunPaths {
  const model = sanitizeComponent(name.model);
  const dataset =
    sanitizeComponent(name.dataset) + (name.subset === null ? "" : `__${sanitizeComponent(name.subset)}`);
  const split = sanitizeComponent(name.split);
  const indexes = join(name.root, "indexes", model, dataset);
  return {
    embeddings: join(name.root, "embeddings", model, dataset, split),
    indexes,
    cache: join(name.root, "cache"),
    logs: join(name.root, "logs"),
    manifest: join(indexes, `manifest-${split}.json`),
    runSummary: join(indexes, `run-${split}.json`),
    journal: join(indexes, `journal-${split}.jsonl`),
    lock: join(indexes, `lock-${split}`),
  };
}

/** `shard-00000.parquet` */
export function shardFileName(index: number): string {
  return `shard-${String(index).padStart(5, "0")}.parquet`;
}
