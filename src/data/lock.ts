// SPDX-License-Identifier: Apache-2.0
// One run at a time over one set of files. The lock names its process; one whose process is gone (killed,
// power cut) is taken over.

import { mkdir, open, readFile, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { DataError } from "../errors.ts";

interface Owner {
  pid: number;
  host: string;
  /** Start of the process in clock ticks since boot, where the system tells; pids are used again. */
  start: string | null;
}

async function processStart(pid: number): Promise<string | null> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}

async function isAlive(owner: Owner): Promise<boolean> {
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  const start = await processStart(owner.pid);
  return owner.start === null || start === null || owner.start === start;
}

/** Takes the lock or says who has it. The function returned gives it back. */
export async function takeLock(path: string): Promise<() => Promise<void>> {
  await mkdir(dirname(path), { recursive: true });
  const self: Owner = { pid: process.pid, host: hostname(), start: await processStart(process.pid) };
  for (let attempt = 0; ; attempt++) {
    try {
      const handle = await open(path, "wx");
      await handle.writeFile(JSON.stringify(self));
      await handle.close();
      return () => rm(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    let owner: Owner | null = null;
    try {
      owner = JSON.parse(await readFile(path, "utf8")) as Owner;
    } catch {
      // Empty or gone: its owner died while it was written, or has just given it back.
    }
    if (attempt >= 3 || (owner !== null && (await isAlive(owner)))) {
      throw new DataError("ERR_RUN_LOCKED", `Another process works on this run (${path})`, {
        details: { lock: path, owner },
        remedies: ["wait for it to end", "if its machine is gone for good, remove the lock file"],
      });
    }
    await rm(path, { force: true });
  }
}
