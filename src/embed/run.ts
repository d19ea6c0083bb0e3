// SPDX-License-Identifier: Apache-2.0
// embedDataset: from settings to shards, manifest and run summary. The parent of the stage processes.

import { readdir, rm } from "node:fs/promises";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { writeFileAtomic } from "../data/files.ts";
import { createJournal, JournalWriter, readJournal } from "../data/journal.ts";
import { takeLock } from "../data/lock.ts";
import { type RunPaths, runPaths } from "../data/names.ts";
import type { ScalarColumn } from "../data/shards/schema.ts";
import { datasetName, openDataset } from "../data/sources/open.ts";
import { countRows } from "../data/sources/rows.ts";
import type { DataSource } from "../data/sources/source.ts";
import { DataError, SteerError } from "../errors.ts";
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
  requireSameSettings,
  type ShardEntry,
} from "./journal.ts";
import { buildManifest, buildSummary, type Manifest, type RunSummary } from "./manifest.ts";
import { type EmbedProgress, ProgressMeter } from "./progress.ts";
import type { LoaderEnd, StageSettings } from "./stages/messages.ts";
import { StageProcesses, socketFolder } from "./stages/processes.ts";
import { gitSha } from "./tool.ts";

export interface EmbedOptions {
  /** Ends the run now; the call rejects with the signal's reason. What the journal holds is kept. */
  signal?: AbortSignal;
  /** Ends the run after the shards that are begun; the call resolves with status "stopped". */
  stop?: AbortSignal;
  /** Called about five times a second, and once at the end. */
  onProgress?: (progress: EmbedProgress) => void;
  /** Header to begin with, where another process has chosen run id and time (workers of a queue). */
  begin?: { createdAt: string; runId: string };
  /** Told the process ids of the stages when they run. */
  onStages?: (pids: Record<string, number>) => void;
}

export interface EmbedResult {
  /** "complete": manifest written. "range": this range is done. "stopped": ended on request. */
  status: "complete" | "range" | "stopped";
  /** Shards of this run (of the range) that are on disk, in order. */
  shards: ShardEntry[];
  manifest: Manifest | null;
  manifestPath: string | null;
  runSummary: RunSummary | null;
  runPath: string | null;
  progress: EmbedProgress;
}

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

/**
 * Embeds a data set. Errors: misuse of a setting (TypeError, RangeError with a code); DataError, ModelError,
 * EnvironmentError, ServiceError by cause; SteerError ERR_STAGE_DIED where a process was killed;
 * `signal.reason`. Whatever ends it, shards in the journal stay, and `resume` goes on from there.
 */
export async function embedDataset(given: EmbedConfig, options: EmbedOptions = {}): Promise<EmbedResult> {
  const started = performance.now();
  options.signal?.throwIfAborted();
  const run = await prepareRun(given);
  const { config, paths, model } = run;
  const rangeName =
    config.shardRange === null ? "" : `.r${config.shardRange.start}-${config.shardRange.end ?? "end"}`;
  const unlock = await takeLock(paths.lock + rangeName);
  try {
    return await runLocked(run, options, { started, rangeName });
  } finally {
    await unlock();
  }

  async function runLocked(
    { source, columns, fileRows, totalRows, positions: known, fingerprint }: PreparedRun,
    { signal, stop, onProgress, begin, onStages }: EmbedOptions,
    { started, rangeName }: { started: number; rangeName: string },
  ): Promise<EmbedResult> {
    const sources = await source.files();
    if (config.overwrite) await forget(paths);
    const before = await readState(paths);
    if (before.header !== null && !config.resume && !config.overwrite && config.shardRange === null) {
      throw new DataError("ERR_RUN_EXISTS", `There is already a run of this name in ${paths.indexes}`, {
        details: { journal: paths.journal, shards: before.shards.size },
        remedies: [
          "go on with it: --resume",
          "begin anew: --overwrite",
          "keep both: another --output-root or --dataset-name",
        ],
      });
    }
    const createdAt = begin?.createdAt ?? now();
    const header: JournalHeader = {
      type: "run",
      version: 1,
      created_at: createdAt,
      run_id: config.runId ?? begin?.runId ?? createdAt.replace(/[:-]/g, ""),
      fingerprint,
      sources,
      total_rows: totalRows,
    };
    if (before.header === null) await createJournal(paths.journal, header);
    const state = await readState(paths);
    const begun = state.header ?? header;
    requireSameSettings(begun, fingerprint, sources, paths.journal);
    if (config.runId !== null && config.runId !== begun.run_id && config.resume) {
      throw new DataError(
        "ERR_RESUME_SETTINGS",
        `The run in ${paths.journal} has the id ${begun.run_id}, not ${config.runId}`,
        {
          details: { journal: paths.journal, was: begun.run_id, now: config.runId },
          remedies: ["leave out --run-id"],
        },
      );
    }

    const meter = new ProgressMeter();
    const sha = await gitSha();
    const positions = known ?? state.end?.positions ?? null;
    const shardCount = positions === null ? null : Math.ceil(positions / config.rowsPerShard);
    const wantedStart = config.shardRange?.start ?? 0;
    const wantedEnd = capped(config.shardRange?.end ?? null, shardCount);
    const ranges = missingRanges(new Set(state.shards.keys()), wantedStart, wantedEnd).filter(
      (range) => range.end === null || range.end > range.start,
    );
    const resumed = [...state.shards.values()].reduce((sum, shard) => sum + shard.positions, 0);
    meter.expect({ resumed, total: positions ?? config.maxRows });
    let stopped = false;
    let end: LoaderEnd | null = null;
    if (ranges.length > 0) {
      const journal =
        rangeName === "" ? paths.journal : paths.journal.replace(/\.jsonl$/, `${rangeName}.jsonl`);
      const sockets = await socketFolder();
      try {
        const devices = config.device.split(",").map((device) => device.trim());
        const settings: StageSettings = {
          config,
          model,
          device: devices[0] as string,
          cacheFolder: join(config.outputRoot, "cache"),
          encoderSockets: devices.map((_, i) => sockets.path(`e${i}`)),
          writerSocket: sockets.path("w"),
          columns,
          ranges,
          fileRows,
          totalRows,
          createdAt: begun.created_at,
          runId: begun.run_id,
          journal,
          embeddings: paths.embeddings,
          embeddingsName: relative(resolve(config.outputRoot), resolve(paths.embeddings))
            .split(sep)
            .join("/"),
          gitSha: sha,
        };
        end = await runStages(settings, devices, meter, { signal, stop, onProgress, onStages });
        stopped = end.stopped;
        if (end.positions !== null && state.end === null) {
          const writer = await JournalWriter.open(journal);
          await writer.append({ type: "end", positions: end.positions });
          await writer.close();
        }
      } finally {
        await sockets.remove();
      }
    }
    const after = await readState(paths);
    const total = known ?? after.end?.positions ?? null;
    const count = total === null ? null : Math.ceil(total / config.rowsPerShard);
    const inRange = [...after.shards.values()]
      .filter(
        (shard) =>
          shard.shard_index >= wantedStart &&
          shard.shard_index < (config.shardRange?.end ?? Number.POSITIVE_INFINITY),
      )
      .sort((a, b) => a.shard_index - b.shard_index);
    const result: EmbedResult = {
      status: "range",
      shards: inRange,
      manifest: null,
      manifestPath: null,
      runSummary: null,
      runPath: null,
      progress: meter.snapshot(),
    };
    if (stopped) return { ...result, status: "stopped" };
    const missing = missingRanges(
      new Set(after.shards.keys()),
      wantedStart,
      capped(config.shardRange?.end ?? null, count),
    );
    if (count === null || missing.length > 0) {
      if (config.shardRange !== null && (count === null || missing.length === 0)) return result;
      throw new DataError(
        "ERR_ROWS_LOST",
        `The run ended, but shards are missing: ${JSON.stringify(missing)}`,
        {
          details: { missing, positions: total },
          remedies: ["rerun with --resume", "report it"],
        },
      );
    }
    const everything = missingRanges(new Set(after.shards.keys()), 0, count);
    if (everything.length > 0) return result;
    return {
      ...result,
      ...(await finishRun(run, begun, after, { started, sha, meter })),
      status: "complete",
    };
  }
}

function capped(end: number | null, count: number | null): number | null {
  if (end === null) return count;
  return count === null ? end : Math.min(end, count);
}

/** Writes manifest and run summary of a run whose shards are all there. */
export async function finishRun(
  run: PreparedRun,
  header: JournalHeader,
  state: JournalState,
  { started, sha, meter }: { started: number; sha: string | null; meter: ProgressMeter },
): Promise<Pick<EmbedResult, "manifest" | "manifestPath" | "runSummary" | "runPath">> {
  const { config, paths, model } = run;
  const shards = [...state.shards.values()].sort((a, b) => a.shard_index - b.shard_index);
  const manifest = buildManifest({
    config,
    names: { dataset: run.datasetName },
    model,
    header,
    shards,
    revision: run.source.revision,
    kind: run.source.kind,
  });
  const manifestPath = config.manifestPath ?? paths.manifest;
  const progress = meter.snapshot();
  const summary = buildSummary(manifest, {
    seconds: (performance.now() - started) / 1000,
    gitSha: sha,
    manifestPath,
    session: { ...progress, warmUpMs: meter.warmUp },
  });
  await writeFileAtomic(manifestPath, [`${JSON.stringify(manifest, null, 2)}\n`]);
  await writeFileAtomic(paths.runSummary, [`${JSON.stringify(summary, null, 2)}\n`]);
  return { manifest, manifestPath, runSummary: summary, runPath: paths.runSummary };
}

/** Removes what a run of this name left, journal first: without it nothing else counts. */
async function forget(paths: RunPaths): Promise<void> {
  for (const file of await journalFiles(paths)) await rm(file, { force: true });
  await rm(paths.manifest, { force: true });
  await rm(paths.runSummary, { force: true });
  await rm(paths.embeddings, { recursive: true, force: true });
}

const PROGRESS_MS = 200;

async function runStages(
  settings: StageSettings,
  devices: readonly string[],
  meter: ProgressMeter,
  {
    signal,
    stop,
    onProgress,
    onStages,
  }: { [K in keyof EmbedOptions]: EmbedOptions[K] | undefined },
): Promise<LoaderEnd> {
  let end: LoaderEnd | null = null;
  let written: { shards: number; windows: number } | null = null;
  const stages = new StageProcesses(settings, devices, {
    onMessage(_stage, message) {
      meter.take(message);
      if (message.type === "loader-end") end = message.end;
      if (message.type === "writer-end") written = message;
    },
  });
  onStages?.(stages.pids);
  const timer =
    onProgress === undefined ? null : setInterval(() => onProgress(meter.snapshot()), PROGRESS_MS);
  const onStop = (): void => stages.finishShard();
  const onAbort = (): void => stages.kill();
  stop?.addEventListener("abort", onStop, { once: true });
  signal?.addEventListener("abort", onAbort, { once: true });
  if (signal?.aborted) onAbort();
  if (stop?.aborted) onStop();
  // Where this process ends by itself, the stages see the closed channel and end too.
  try {
    await stages.finished;
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    if (timer !== null) clearInterval(timer);
    stop?.removeEventListener("abort", onStop);
    signal?.removeEventListener("abort", onAbort);
    onProgress?.(meter.snapshot());
  }
  const loaded = end as LoaderEnd | null;
  const wrote = written as { shards: number; windows: number } | null;
  if (loaded === null || wrote === null || loaded.windows !== wrote.windows) {
    throw new SteerError(
      "ERR_ROWS_LOST",
      `The loader sent ${loaded?.windows} windows, the writer got ${wrote?.windows}`,
      {
        details: { loaded, wrote },
        remedies: ["rerun with --resume", "report it"],
      },
    );
  }
  return loaded;
}
