// SPDX-License-Identifier: Apache-2.0
// Runs the built command line as a user does: a process of its own, dist/cli/main.js, its streams and code.
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const program = join(root, "dist/cli/main.js");

export interface CliRun {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Builds dist when a source is newer than it. Test files run side by side, so one builds and others wait. */
export async function ensureBuilt(): Promise<void> {
  const lock = join(root, "build/test-dist.lock");
  mkdirSync(join(root, "build"), { recursive: true });
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch {
      // Left behind by a run that was killed.
      if (Date.now() - (statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? 0) > 120_000) removeLock(lock);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  try {
    const built = existsSync(program) ? statSync(program).mtimeMs : 0;
    if (newest(join(root, "src")) > built)
      execFileSync(process.execPath, [join(root, "scripts/build-ts.mjs")]);
  } finally {
    removeLock(lock);
  }
}

/** Runs `chatspace-steer ARGS`. `onOutput` sees stdout as it comes and may signal the process. */
export function cli(
  args: readonly string[],
  options: {
    input?: string;
    env?: Record<string, string>;
    onOutput?: (stdout: string, kill: (signal: NodeJS.Signals) => void) => void;
  } = {},
): Promise<CliRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], {
      env: { ...process.env, NO_COLOR: "1", ...options.env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      options.onOutput?.(stdout, (signal) => child.kill(signal));
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
    child.stdin.end(options.input ?? "");
  });
}

function newest(folder: string): number {
  let latest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true }))
    if (entry.isFile()) latest = Math.max(latest, statSync(join(entry.parentPath, entry.name)).mtimeMs);
  return latest;
}

function removeLock(lock: string): void {
  try {
    rmdirSync(lock);
  } catch {
    // Another run removed it.
  }
}
