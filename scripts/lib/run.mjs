// SPDX-License-Identifier: Apache-2.0
// Child processes and progress for the scripts: output goes to stderr, failures carry the command.
import { spawn } from "node:child_process";

/** One line of progress on stderr. */
export function say(line) {
  process.stderr.write(`${line}\n`);
}

/** Runs a command with its output on stderr; rejects with the command and its status. */
export function run(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", 2, 2], ...options });
    child.on("error", (error) => reject(new Error(`${command}: ${error.message}`, { cause: error })));
    child.on("exit", (code, signal) => {
      if (code === 0) resolve();
      else
        reject(
          new Error(
            `\`${[command, ...args].join(" ")}\` ${signal ? `was ended by ${signal}` : `exited with ${code}`}`,
          ),
        );
    });
  });
}

/**
 * Runs a command and gives back what it said; never rejects.
 * `ok` is false with a `reason` when it cannot be started, fails, or runs past `timeoutMs`.
 */
export function capture(command, args, { timeoutMs = 10_000, onStderr = undefined, ...options } = {}) {
  return new Promise((resolve) => {
    let stdout = "";
    let stderr = "";
    let timedOut = false;
    let child;
    try {
      child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    } catch (error) {
      resolve({ ok: false, stdout, stderr, reason: `${command}: ${error.message}` });
      return;
    }
    const timer = timeoutMs
      ? setTimeout(() => {
          timedOut = true;
          child.kill("SIGKILL");
        }, timeoutMs)
      : undefined;
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
      onStderr?.(text);
    });
    child.on("error", (error) => {
      clearTimeout(timer);
      const reason = error.code === "ENOENT" ? `${command} is not installed` : `${command}: ${error.message}`;
      resolve({ ok: false, stdout, stderr, reason });
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (code === 0) resolve({ ok: true, stdout, stderr, reason: null });
      else {
        const last = stderr.trim().split("\n").at(-1) || `${signal ?? `exit status ${code}`}`;
        const reason = timedOut ? `${command} gave no answer in ${timeoutMs / 1000} s` : last;
        resolve({ ok: false, stdout, stderr, reason });
      }
    });
  });
}
