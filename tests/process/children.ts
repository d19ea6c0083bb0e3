// SPDX-License-Identifier: Apache-2.0
// Starts a scenario of child.mjs and tells how the process ended.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";

const CHILD = fileURLToPath(new URL("./child.mjs", import.meta.url));
const BUILT = fileURLToPath(new URL("../../dist/native/loader.js", import.meta.url));

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
  /** The JSON lines it wrote. */
  told: Record<string, unknown>[];
  ms: number;
}

export interface ChildOptions {
  args?: string[];
  flags?: string[];
  env?: NodeJS.ProcessEnv;
  timeoutMs?: number;
  /** Sent when the first line has come. */
  signal?: NodeJS.Signals;
}

export function child(scenario: string, options: ChildOptions = {}): Promise<Ended> {
  expect(existsSync(BUILT), "dist/ is not built: npm run build:ts").toBe(true);
  const started = performance.now();
  const process_ = spawn(
    process.execPath,
    [...(options.flags ?? []), CHILD, scenario, ...(options.args ?? [])],
    {
      env: { ...process.env, NODE_OPTIONS: "", ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  const timer = setTimeout(() => process_.kill("SIGKILL"), options.timeoutMs ?? 100_000);
  let [stdout, stderr, sent] = ["", "", false];
  process_.stdout.on("data", (chunk) => {
    stdout += chunk;
    if (options.signal && !sent && stdout.includes("\n")) {
      sent = true;
      process_.kill(options.signal);
    }
  });
  process_.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve, reject) => {
    process_.on("error", reject);
    process_.on("close", (code, signal) => {
      clearTimeout(timer);
      const told = stdout
        .split("\n")
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line) as Record<string, unknown>);
      resolve({ code, signal, stderr, told, ms: performance.now() - started });
    });
  });
}
