// SPDX-License-Identifier: Apache-2.0
// Everything about a run that is known before its stages start: files, model, schema, identity, what is
// on disk already.

import { readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { readJournal } from "../data/journal.ts";
import { type RunPaths, runPaths } from "../data/names.ts";
import type { ScalarColumn } from "../data/shards/schema.ts";
import { datasetName, openDataset } from "../data/sources/open.ts";
import { countRows } from "../data/sources/rows.ts";
import type { DataSource, SourceFile } from "../data/sources/source.ts";
import { DataError } from "../errors.ts";
import { type EmbedConfig, type ResolvedConfig, resolveConfig } from "./config.ts";
import type { ModelSpec } from "./encoders/encoder.ts";
import { modelSpec } from "./encoders/open.ts";
import { inspectColumns } from "./inspect.ts";
import {
  type Fingerprint,
  foldJournal,
  type JournalEntry,
  type JournalHeader,
  type JournalState,
} from "./journal.ts";

/** A run with everything that is known before its stages start. */
export interface PreparedRun {
  config: ResolvedConfig;
  source: DataSource;
  model: ModelSpec;
  paths: RunPaths;
  datasetName: string;
  columns: ScalarColumn[];
  fileRows: number[];
  totalRows: number | null;
  /** Rows the run selects, where known. */
  positions: number | null;
  fingerprint: Fingerprint;
}

/** Opens source and model, counts rows where that is cheap or needed; starts nothing. */
export async function prepareRun(
  given: EmbedConfig,
  options: { count?: boolean } = {},
): Promise<PreparedRun> {
  const config = resolveConfig(given);
  const cacheFolder = join(config.outputRoot, "cache");
  const source = await openDataset({ ...config, cacheFolder });
  const model = await modelSpec(config, cacheFolder);
  const name = config.datasetName ?? (await datasetName(config.dataset));
  const paths = runPaths({
    root: config.outputRoot,
    model: model.name,
    dataset: name,
    subset: config.subset,
    split: config.split,
  });
  const columns = await inspectColumns(source, config);
  const counted =
    config.shuffleSeed !== null ||
    options.count === true ||
    (source.kind === "local" && source.format === "parquet");
  const fileRows = counted ? await countRows(source) : [];
  const totalRows = counted ? fileRows.reduce((sum, rows) => sum + rows, 0) : null;
  const positions = totalRows === null ? null : Math.min(totalRows, config.maxRows ?? totalRows);
  return {
    config,
    source,
    model,
    paths,
    datasetName: name,
    columns,
    fileRows,
    totalRows,
    positions,
    fingerprint: fingerprintOf(config, model, columns, source),
  };
}

function fingerprintOf(
  config: ResolvedConfig,
  model: ModelSpec,
  columns: readonly ScalarColumn[],
  source: DataSource,
): Fingerprint {
  return {
    dataset: config.dataset.replace(/\/+$/, "").split("/").slice(-2).join("/"),
    subset: config.subset,
    split: config.split,
    revision: source.revision,
    format: source.format,
    text_field: config.textField,
    extract_first_assistant: config.extractFirstAssistant,
    prefix: config.prefix,
    columns: columns.map((column) => `${column.name}:${column.type}`).join(","),
    max_rows: config.maxRows,
    shuffle_seed: config.shuffleSeed,
    on_error: config.onError,
    rows_per_shard: config.rowsPerShard,
    window_rows: config.windowRows,
    tokens_per_batch: config.tokensPerBatch,
    batch_size: config.batchSize,
    bucket_min_tokens: config.bucketMinTokens,
    model: model.name,
    model_kind: model.kind,
    model_files: JSON.stringify(model.identity),
    pooling: model.pooling,
    normalize: model.normalize,
    max_tokens: model.maxTokens,
    site: model.site,
    steering: model.steering,
    device: config.device.split(",")[0]?.replace(/:\d+$/, "") ?? "cpu",
    output_dtype: config.outputDtype,
    compression: config.compression,
  };
}

/** Time of a new run; SOURCE_DATE_EPOCH makes it, and so the shards' bytes, reproducible. */
function now(): string {
  const epoch = process.env.SOURCE_DATE_EPOCH;
  return epoch !== undefined && /^\d+$/.test(epoch)
    ? new Date(Number(epoch) * 1000).toISOString()
    : new Date().toISOString();
}

/** Refuses to begin over a run that is there; forgets it where `overwrite` says so. */
export async function refuseExisting({ config, paths }: PreparedRun): Promise<void> {
  if (config.overwrite) await forget(paths);
  if (config.resume || config.shardRange !== null) return;
  const before = await readState(paths);
  if (before.header === null) return;
  throw new DataError("ERR_RUN_EXISTS", `There is already a run of this name in ${paths.indexes}`, {
    details: { journal: paths.journal, shards: before.shards.size },
    remedies: [
      "go on with it: --resume",
      "begin anew: --overwrite",
      "keep both: another --output-root or --dataset-name",
    ],
  });
}

/** The journal's first line for a run that begins now. */
export function beginHeader(
  { config, fingerprint, totalRows }: PreparedRun,
  sources: SourceFile[],
  begin: { createdAt: string; runId: string } | undefined,
): JournalHeader {
  const createdAt = begin?.createdAt ?? now();
  return {
    type: "run",
    version: 1,
    created_at: createdAt,
    run_id: config.runId ?? begin?.runId ?? createdAt.replace(/[:-]/g, ""),
    fingerprint,
    sources,
    total_rows: totalRows,
  };
}

/** Journals of a run: the whole one and those of ranges. */
async function journalFiles(paths: RunPaths): Promise<string[]> {
  const folder = dirname(paths.journal);
  const stem = basename(paths.journal, ".jsonl");
  const entries = await readdir(folder).catch(() => [] as string[]);
  return entries
    .filter((name) => name === `${stem}.jsonl` || (name.startsWith(`${stem}.r`) && name.endsWith(".jsonl")))
    .map((name) => join(folder, name));
}

export async function readState(paths: RunPaths): Promise<JournalState> {
  let state: JournalState = { header: null, shards: new Map(), end: null };
  for (const file of await journalFiles(paths))
    state = foldJournal(await readJournal<JournalEntry>(file), state);
  return state;
}

/** Shards of [start, end) that are not on disk, as ranges; `end` null = not known. */
export function missingRanges(
  done: ReadonlySet<number>,
  start: number,
  end: number | null,
): { start: number; end: number | null }[] {
  const ranges: { start: number; end: number | null }[] = [];
  const last = end ?? Math.max(start, ...[...done].map((index) => index + 1));
  let open: number | null = null;
  for (let index = start; index < last; index++) {
    if (done.has(index)) {
      if (open !== null) ranges.push({ start: open, end: index });
      open = null;
    } else open ??= index;
  }
  if (end === null) ranges.push({ start: open ?? last, end: null });
  else if (open !== null) ranges.push({ start: open, end: last });
  return ranges;
}

/** Removes what a run of this name left, journal first: without it nothing else counts. */
async function forget(paths: RunPaths): Promise<void> {
  for (const file of await journalFiles(paths)) await rm(file, { force: true });
  await rm(paths.manifest, { force: true });
  await rm(paths.runSummary, { force: true });
  await rm(paths.embeddings, { recursive: true, force: true });
}
