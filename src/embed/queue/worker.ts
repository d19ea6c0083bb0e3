// SPDX-License-Identifier: Apache-2.0
// A worker: takes shard ranges off the queue and makes them in its own folder. Killed in the middle, its
// range goes to another worker after the lock has run out; the same shards come out, byte for byte.

import { hostname } from "node:os";
import { resolve } from "node:path";
import { UnrecoverableError, Worker } from "bullmq";
import { requireSameSettings } from "../journal.ts";
import { prepareRun } from "../prepare.ts";
import type { EmbedProgress } from "../progress.ts";
import { embedDataset } from "../run.ts";
import { toWire } from "../wire-error.ts";
import { connectRedis, QUEUE_NAME, QUEUE_PREFIX } from "./connection.ts";
import type { RangeJob, RangeResult } from "./jobs.ts";

export interface WorkerOptions {
  queue: string;
  outputRoot: string;
  /** Device and threads of this machine instead of the run's. */
  device?: string;
  threads?: number;
  /** Ends after so many seconds without work; null = never. */
  idleExitSeconds?: number | null;
  /** First abort: finish the range that is begun. */
  stop?: AbortSignal;
  /** Ends now. */
  signal?: AbortSignal;
  onProgress?: (progress: EmbedProgress) => void;
  onEvent?: (event: {
    event: "ready" | "range" | "done" | "failed";
    range?: { start: number; end: number };
    runId?: string;
    error?: string;
  }) => void;
}

/** How long a dead worker keeps its range. */
export const LOCK_MS = 15_000;
const STALLED_CHECK_MS = 5_000;

/** Works until it is stopped (or idle for long enough). Resolves with the number of ranges done. */
export async function runWorker(options: WorkerOptions): Promise<number> {
  const connection = await connectRedis(options.queue);
  const outputRoot = resolve(options.outputRoot);
  let done = 0;
  let lastWork = Date.now();
  let busy = false;

  const process = async ({ data }: { data: RangeJob }): Promise<RangeResult> => {
    busy = true;
    const { range, begin } = data;
    options.onEvent?.({ event: "range", range, runId: begin.runId });
    const config = {
      ...data.config,
      outputRoot,
      manifestPath: null,
      runId: null,
      resume: true,
      overwrite: false,
      shardRange: range,
      ...(options.device === undefined ? {} : { device: options.device }),
      ...(options.threads === undefined ? {} : { threads: options.threads }),
    };
    try {
      const prepared = await prepareRun(config);
      // The files and the model of this machine must be those of the coordinator's.
      const header = {
        type: "run",
        version: 1,
        created_at: begin.createdAt,
        run_id: begin.runId,
        total_rows: null,
      } as const;
      requireSameSettings(
        { ...header, fingerprint: data.fingerprint, sources: data.sources },
        prepared.fingerprint,
        await prepared.source.files(),
        `the queue (run ${begin.runId})`,
      );
      const { shards } = await embedDataset(config, {
        begin,
        ...(options.signal ? { signal: options.signal } : {}),
        ...(options.onProgress ? { onProgress: options.onProgress } : {}),
      });
      done++;
      options.onEvent?.({ event: "done", range, runId: begin.runId });
      return { shards, location: `${hostname()}:${outputRoot}` };
    } catch (error) {
      const wire = toWire(error);
      options.onEvent?.({ event: "failed", range, runId: begin.runId, error: wire.message });
      const text = JSON.stringify({ ...wire, stack: "" });
      // A wrong setting stays wrong; a killed stage or a full disk may be another worker's luck.
      if (wire.code === "ERR_RESUME_SETTINGS") throw new UnrecoverableError(text);
      throw new Error(text);
    } finally {
      busy = false;
      lastWork = Date.now();
    }
  };

  const worker = new Worker<RangeJob, RangeResult>(QUEUE_NAME, process, {
    connection,
    prefix: QUEUE_PREFIX,
    concurrency: 1,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_CHECK_MS,
    maxStalledCount: 1_000_000,
  });
  worker.on("error", () => undefined);
  await worker.waitUntilReady();
  options.onEvent?.({ event: "ready" });
  await new Promise<void>((resolveDone) => {
    const idle = options.idleExitSeconds ?? null;
    const timer = setInterval(() => {
      if (idle !== null && !busy && Date.now() - lastWork > idle * 1000) finish();
    }, 250);
    const finish = (): void => {
      clearInterval(timer);
      resolveDone();
    };
    options.stop?.addEventListener("abort", finish, { once: true });
    options.signal?.addEventListener("abort", finish, { once: true });
  });
  await worker.close(options.signal?.aborted === true);
  connection.disconnect();
  options.signal?.throwIfAborted();
  return done;
}
