// SPDX-License-Identifier: Apache-2.0
// A peer program that answers one JSON line per request, so that both sides are measured in turns in
// one run. The Python used is CHATSPACE_BENCH_PYTHON or python3; without Transformers there the peer is
// left out and the table says so.
import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export function benchPython() {
  const python = process.env.CHATSPACE_BENCH_PYTHON ?? "python3";
  const probe = spawnSync(python, ["-c", "import transformers; print(transformers.__version__)"], {
    encoding: "utf8",
    timeout: 120_000,
  });
  if (probe.status !== 0) return null;
  return { python, version: probe.stdout.trim() };
}

export class Peer {
  #child;
  #waiting = [];

  constructor(python, script, env = {}) {
    this.#child = spawn(python, [fileURLToPath(new URL(`../peers/${script}`, import.meta.url))], {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, HF_HUB_OFFLINE: "1", ...env },
    });
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      if (line.startsWith("{")) this.#waiting.shift()?.resolve(JSON.parse(line));
    });
    // The end of what it complained about is told when it dies.
    let complaint = "";
    this.#child.stderr.setEncoding("utf8").on("data", (text) => {
      complaint = (complaint + text).slice(-2000);
    });
    this.#child.on("close", (code) => {
      const error = new Error(`${script} ended with code ${code}: ${complaint}`);
      for (const waiter of this.#waiting) waiter.reject(error);
    });
  }

  ask(request) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    });
  }

  close() {
    this.#child.stdin.end();
  }
}
