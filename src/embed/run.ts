// SPDX-License-Identifier: Apache-2.0
// embedDataset: from settings to shards, manifest and run summary. The parent of the stage processes.

import { join, relative, resolve, sep } from "node:path";
import { sweepTemporaries, writeFileAtomic } from "../data/files.ts";
import { createJournal, JournalWriter } from "../data/journal.ts";
import { takeLock } from "../data/lock.ts";
import { DataError } from "../errors.ts";
import type { EmbedConfig } from "./config.ts";
import { type JournalHeader, type JournalState, requireSameSettings, type ShardEntry } from "./journal.ts";
import { buildManifest, buildSummary, type Manifest, type RunSummary } from "./manifest.ts";
import {
  beginHeader,
  missingRanges,
  type PreparedRun,
  prepareRun,
  readState,
  refuseExisting,
} from "./prepare.ts";
import { type EmbedProgress, ProgressMeter } from "./progress.ts";
import { type EmbedOptions, runStages } from "./run-stages.ts";
import type { LoaderEnd, StageSettings } from "./stages/messages.ts";
import { socketFolder } from "./stages/processes.ts";
import { gitSha } from "./tool.ts";

export type { EmbedOptions } from "./run-stages.ts";

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
    await refuseExisting(run);
    // Other machines may be writing ranges into the same folder; then their files are left alone.
    if (config.shardRange === null)
      for (const folder of [paths.embeddings, paths.indexes]) await sweepTemporaries(folder);
    const header = beginHeader(run, sources, begin);
    await createJournal(paths.journal, header);
    const state = await readState(paths);
    const begun = state.header ?? header;
    requireSameSettings(begun, fingerprint, sources, paths.journal);
    const runId = begin?.runId ?? config.runId;
    if (runId !== null && runId !== begun.run_id) {
      throw new DataError(
        "ERR_RESUME_SETTINGS",
        `The run in ${paths.journal} has the id ${begun.run_id}, not ${runId}`,
        {
          details: { journal: paths.journal, was: begun.run_id, now: runId },
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
