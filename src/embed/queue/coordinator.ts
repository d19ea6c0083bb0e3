// SPDX-License-Identifier: Apache-2.0
// The coordinator of a queued run: puts the missing shard ranges on the queue, gathers what workers
// report into the journal, writes the manifest when the last range is in. Killed and started again, it
// goes on from its journal.

import { type Job, Queue } from "bullmq";
import { createJournal, JournalWriter } from "../../data/journal.ts";
import { takeLock } from "../../data/lock.ts";
import { pause } from "../../data/sources/retry.ts";
import { SteerError } from "../../errors.ts";
import type { EmbedConfig } from "../config.ts";
import { requireSameSettings, type ShardEntry } from "../journal.ts";
import { beginHeader, missingRanges, prepareRun, readState, refuseExisting } from "../prepare.ts";
import { ProgressMeter } from "../progress.ts";
import { type EmbedOptions, type EmbedResult, finishRun } from "../run.ts";
import { gitSha } from "../tool.ts";
import { fromWire, type WireError } from "../wire-error.ts";
import { connectRedis, QUEUE_NAME, QUEUE_PREFIX } from "./connection.ts";
import type { RangeJob, RangeResult } from "./jobs.ts";

export interface CoordinateOptions extends EmbedOptions {
  queue: string;
  /** Shards of one range. */
  rangeShards: number;
}

const POLL_MS = 250;
/** Jobs on the queue at once; more are added as these are done. */
const MOST_JOBS = 256;

/** Runs a data set through the queue. Same result and errors as embedDataset. */
export async function coordinate(given: EmbedConfig, options: CoordinateOptions): Promise<EmbedResult> {
  const started = performance.now();
  const run = await prepareRun(given, { count: true });
  const { config, paths } = run;
  const sources = await run.source.files();
  const connection = await connectRedis(options.queue);
  const unlock = await takeLock(paths.lock);
  const queue = new Queue<RangeJob, RangeResult>(QUEUE_NAME, { connection, prefix: QUEUE_PREFIX });
  queue.on("error", () => undefined);
  const meter = new ProgressMeter();
  try {
    await refuseExisting(run);
    const header = beginHeader(run, sources, options.begin);
    await createJournal(paths.journal, header);
    const state = await readState(paths);
    const begun = state.header ?? header;
    requireSameSettings(begun, run.fingerprint, sources, paths.journal);
    const shardCount = Math.ceil((run.positions ?? 0) / config.rowsPerShard);
    meter.expect({
      resumed: [...state.shards.values()].reduce((sum, shard) => sum + shard.positions, 0),
      total: run.positions,
    });
    const journal = await JournalWriter.open(paths.journal);
    let stopped = false;
    try {
      const waiting = missingRanges(new Set(state.shards.keys()), 0, shardCount).flatMap(({ start, end }) => {
        const last = end ?? shardCount;
        const pieces: { start: number; end: number }[] = [];
        for (let at = start; at < last; at += options.rangeShards)
          pieces.push({ start: at, end: Math.min(at + options.rangeShards, last) });
        return pieces;
      });
      const jobs = new Map<string, Job<RangeJob, RangeResult>>();
      while (waiting.length > 0 || jobs.size > 0) {
        options.signal?.throwIfAborted();
        if (options.stop?.aborted && !stopped) {
          stopped = true;
          waiting.length = 0;
          await dropWaiting(jobs);
        }
        while (waiting.length > 0 && jobs.size < MOST_JOBS) {
          const range = waiting.shift() as { start: number; end: number };
          const data: RangeJob = {
            config,
            begin: { createdAt: begun.created_at, runId: begun.run_id },
            fingerprint: run.fingerprint,
            sources,
            range,
          };
          const jobId = `${begun.run_id.replace(/[^\w.-]/g, "_")}-${range.start}-${range.end}`;
          const job = await queue.add("range", data, {
            jobId,
            attempts: 3,
            backoff: { type: "exponential", delay: 1_000 },
          });
          jobs.set(jobId, job);
        }
        for (const [id, job] of jobs) {
          const status = await job.getState();
          if (status === "completed") {
            const fresh = await queue.getJob(id);
            if (fresh === undefined) continue;
            const { shards, location } = fresh.returnvalue as RangeResult;
            for (const shard of shards) {
              const entry: ShardEntry = { ...shard, location };
              await journal.append(entry);
              meter.take({
                type: "encoded",
                rows: shard.rows,
                tokens: shard.tokens,
                paddedTokens: shard.padded_tokens,
                batches: 0,
                ms: 0,
                waitMs: 0,
                queued: 0,
              });
              meter.take({ type: "loaded", rows: shard.rows, skipped: shard.rows_skipped, queued: 0 });
              meter.take({ type: "shard", entry, queued: jobs.size });
            }
            await fresh.remove();
            jobs.delete(id);
          } else if (status === "failed") {
            const fresh = await queue.getJob(id);
            const reason = fresh?.failedReason ?? "";
            await fresh?.remove();
            jobs.delete(id);
            await dropWaiting(jobs);
            throw workerError(reason, id);
          } else if (status === "unknown") {
            throw new SteerError("ERR_QUEUE_JOB_LOST", `The range ${id} is no longer on the queue`, {
              details: { job: id },
              remedies: ["was Redis emptied? rerun with --resume: finished ranges are kept"],
            });
          }
        }
        options.onProgress?.(meter.snapshot());
        if (jobs.size > 0) await pause(POLL_MS, options.signal);
      }
    } finally {
      await journal.close();
    }
    const after = await readState(paths);
    const shards = [...after.shards.values()].sort((a, b) => a.shard_index - b.shard_index);
    const base = {
      shards,
      manifest: null,
      manifestPath: null,
      runSummary: null,
      runPath: null,
      progress: meter.snapshot(),
    };
    if (missingRanges(new Set(after.shards.keys()), 0, shardCount).length > 0)
      return { status: "stopped", ...base };
    const written = await finishRun(run, begun, after, { started, sha: await gitSha(), meter });
    return { ...base, status: "complete", ...written };
  } finally {
    await queue.close();
    connection.disconnect();
    await unlock();
  }
}

/** Takes jobs that no worker has begun off the queue. */
async function dropWaiting(jobs: Map<string, Job<RangeJob, RangeResult>>): Promise<void> {
  for (const [id, job] of jobs) {
    try {
      await job.remove();
      jobs.delete(id);
    } catch {
      // A worker holds it: its result is waited for.
    }
  }
}

function workerError(reason: string, job: string): unknown {
  try {
    return fromWire(JSON.parse(reason) as WireError, `worker of range ${job}`);
  } catch {
    return new SteerError("ERR_WORKER_FAILED", `A worker failed on the range ${job}: ${reason}`, {
      details: { job, reason },
      remedies: ["look at the worker's output", "rerun with --resume"],
    });
  }
}
