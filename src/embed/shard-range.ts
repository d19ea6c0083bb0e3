// SPDX-License-Identifier: Apache-2.0
// Which shards one of many processes makes: said outright, or taken from what Slurm and Kubernetes tell
// their tasks.

import { misuse } from "../errors.ts";
import type { ShardRange } from "./config.ts";

export interface ParsedShardRange {
  /** The range said outright; null = all, or to be split by `count`. */
  shardRange: ShardRange | null;
  /** Tasks that share the work, where the environment says so. */
  count: number | null;
  /** This task's part of so many shards; null where nothing is left for it. */
  split(shards: number): ShardRange | null;
}

function whole(value: string | undefined): number | null {
  return value !== undefined && /^\d+$/.test(value) ? Number(value) : null;
}

/**
 * Reads "a..b" (b excluded), "a..", "task/count" or "auto". Auto knows Slurm arrays (SLURM_ARRAY_TASK_ID with
 * _MIN, _COUNT) and Kubernetes indexed jobs (JOB_COMPLETION_INDEX; the number of tasks must be passed as
 * JOB_COMPLETIONS, which Kubernetes does not set itself).
 */
export function parseShardRange(text: string | null, env: NodeJS.ProcessEnv): ParsedShardRange {
  const none = { shardRange: null, count: null, split: () => null };
  if (text === null) return none;
  const range = /^(\d+)\.\.(\d*)$/.exec(text);
  if (range !== null)
    return {
      ...none,
      shardRange: { start: Number(range[1]), end: range[2] === "" ? null : Number(range[2]) },
    };
  let task: number | null = null;
  let count: number | null = null;
  const part = /^(\d+)\/(\d+)$/.exec(text);
  if (part !== null) {
    task = Number(part[1]);
    count = Number(part[2]);
  } else if (text === "auto") {
    const slurm = whole(env.SLURM_ARRAY_TASK_ID);
    if (slurm !== null) {
      const step = whole(env.SLURM_ARRAY_TASK_STEP) ?? 1;
      task = (slurm - (whole(env.SLURM_ARRAY_TASK_MIN) ?? 0)) / step;
      count = whole(env.SLURM_ARRAY_TASK_COUNT);
    } else {
      task = whole(env.JOB_COMPLETION_INDEX);
      count = whole(env.JOB_COMPLETIONS);
    }
    if (task === null || count === null) {
      throw misuse(
        TypeError,
        "ERR_SHARD_RANGE_ENV",
        "--shard-range auto",
        "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, or JOB_COMPLETION_INDEX and JOB_COMPLETIONS, in the environment",
        undefined,
      );
    }
  }
  if (task === null || count === null || count < 1 || task >= count || !Number.isInteger(task))
    throw misuse(RangeError, "ERR_OPTION_RANGE", "--shard-range", "a..b, task/count or auto", text);
  const [index, tasks] = [task, count];
  return {
    shardRange: null,
    count: tasks,
    split(shards) {
      const start = Math.floor((index * shards) / tasks);
      const end = Math.floor(((index + 1) * shards) / tasks);
      return end > start ? { start, end } : null;
    },
  };
}
