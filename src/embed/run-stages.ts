// SPDX-License-Identifier: Apache-2.0
// One session of a run's stages: started, watched, stopped on request, checked for completeness.

import { SteerError } from "../errors.ts";
import type { EmbedProgress, ProgressMeter } from "./progress.ts";
import type { LoaderEnd, StageSettings } from "./stages/messages.ts";
import { StageProcesses } from "./stages/processes.ts";

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

const PROGRESS_MS = 200;

/** Runs the stages to their end; rejects with the error that ended them, or the signal's reason. */
export async function runStages(
  settings: StageSettings,
  devices: readonly string[],
  meter: ProgressMeter,
  { signal, stop, onProgress, onStages }: { [K in keyof EmbedOptions]: EmbedOptions[K] | undefined },
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
