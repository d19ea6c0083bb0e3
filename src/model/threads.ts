// SPDX-License-Identifier: Apache-2.0
// How many threads this process may really use: affinity mask and cgroup quota, not the machine's cores.

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

/** Cores this process may use, at least 1. */
export function usableCores(): number {
  const quota = cgroupQuota();
  const cores = availableParallelism();
  return Math.max(1, quota === undefined ? cores : Math.min(cores, Math.ceil(quota)));
}

/** CPU quota of the control group in cores (v2, then v1), or undefined without a limit. */
function cgroupQuota(): number | undefined {
  const v2 = read("/sys/fs/cgroup/cpu.max")?.split(" ").map(Number);
  if (v2 && v2[0]! > 0 && v2[1]! > 0) return v2[0]! / v2[1]!;
  const quota = Number(read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
  const period = Number(read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  return quota > 0 && period > 0 ? quota / period : undefined;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
