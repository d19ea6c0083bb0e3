// SPDX-License-Identifier: Apache-2.0
// The user cache, and a lock in it so that two processes do not make the same file at the same time.

import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { homedir, hostname } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EnvironmentError } from "../errors.ts";

/** CHATSPACE_CACHE, else chatspace-steer in the XDG cache folder. Not created. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  if (environment.CHATSPACE_CACHE) return environment.CHATSPACE_CACHE;
  return join(environment.XDG_CACHE_HOME || join(homedir(), ".cache"), "chatspace-steer");
}

/** Makes a folder of the cache. Throws ERR_CACHE_WRITE. */
export async function ensureFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    throw new EnvironmentError(
      "ERR_CACHE_WRITE",
      `cannot create the cache folder ${folder}: ${String(cause)}`,
      {
        details: { folder },
        remedies: ["Set CHATSPACE_CACHE to a folder that can be written."],
        cause,
      },
    );
  }
}

const BEAT_MS = 2_000;
const STALE_MS = 20_000;

/**
 * Runs `work` while holding `path`.lock; waits for another holder. A holder touches its lock every two
 * seconds; one that is silent for twenty, or whose process is gone, has died and is passed over. Work
 * under the lock writes atomically, so a double run would cost time and nothing else.
 */
export async function withLock<T>(
  path: string,
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  const lock = `${path}.lock`;
  await ensureFolder(dirname(lock));
  const token = `${process.pid} ${hostname()} ${randomUUID()}`;
  while (!(await take(lock, token))) {
    signal?.throwIfAborted();
    if (await isDead(lock)) await bury(lock);
    else await sleep(150, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(lock, now, now).catch(() => {});
  }, BEAT_MS);
  beat.unref();
  try {
    return await work();
  } finally {
    clearInterval(beat);
    // Ours may have been passed over while this process was stopped.
    if ((await readFile(lock, "utf8").catch(() => "")) === token) await rm(lock, { force: true });
  }
}

async function take(lock: string, token: string): Promise<boolean> {
  try {
    await writeFile(lock, token, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw new EnvironmentError("ERR_CACHE_WRITE", `cannot write ${lock}: ${String(error)}`, {
      details: { path: lock },
      remedies: ["Set CHATSPACE_CACHE to a folder that can be written."],
      cause: error,
    });
  }
}

async function isDead(lock: string): Promise<boolean> {
  try {
    const [info, text] = [await stat(lock), await readFile(lock, "utf8")];
    const [pid, host] = text.split(" ");
    if (Date.now() - info.mtimeMs > STALE_MS) return true;
    return host === hostname() && Number(pid) > 0 && !isRunning(Number(pid));
  } catch {
    // Released between the two looks.
    return false;
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

// By rename, so that of two who see the same dead lock one removes it.
async function bury(lock: string): Promise<void> {
  const grave = `${lock}.${randomUUID()}`;
  await rename(lock, grave).catch(() => {});
  await rm(grave, { force: true });
}
