// SPDX-License-Identifier: Apache-2.0
// Asks another program a question for the doctor: never throws, never hangs.

import { spawn } from "node:child_process";

export interface Answer {
  ok: boolean;
  /** What it printed on stdout; when it failed, the reason in one line. */
  output: string;
}

/** Runs a command, feeds it `input`, and takes its stdout; a silent one is ended after `timeoutMs`. */
export function ask(
  command: string,
  args: readonly string[],
  options: { input?: string; timeoutMs?: number } = {},
): Promise<Answer> {
  const timeoutMs = options.timeoutMs ?? 15_000;
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill("SIGKILL");
    }, timeoutMs);
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    // A program that ends before it has read everything closes the pipe: its status says enough.
    child.stdin.on("error", () => undefined);
    child.stdin.end(options.input ?? "");
    child.on("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      resolve({ ok: false, output: error.code === "ENOENT" ? `${command} is not installed` : error.message });
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (code === 0) resolve({ ok: true, output: stdout.trim() });
      else if (timedOut) resolve({ ok: false, output: `no answer in ${timeoutMs / 1000} s` });
      else
        resolve({
          ok: false,
          output: reason(stderr) || (signal ? `ended by ${signal}` : `exit status ${code}`),
        });
    });
  });
}

/** The line of an error output that names the error, else its last line. */
function reason(stderr: string): string {
  const lines = stderr
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.find((line) => /(^|\W)\w*error\b.*: /i.test(line)) ?? lines.at(-1) ?? "";
}
