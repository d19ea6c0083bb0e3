// SPDX-License-Identifier: Apache-2.0
// The stage processes of a run: started together, watched together, ended together. A stage that ends
// badly ends the run with its own error; nothing is swallowed.

import { type ChildProcess, fork } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SteerError } from "../../errors.ts";
import { fromWire } from "../wire-error.ts";
import { LINK_CODE } from "./frames.ts";
import type { FromStage, StageSettings, ToStage } from "./messages.ts";

/** Stage entries are compiled files, also when this one runs from TypeScript (in tests). */
function entry(name: string): string {
  const here = import.meta.url;
  const url = here.endsWith(".ts")
    ? new URL(`../../../dist/embed/stages/${name}.js`, here)
    : new URL(`./${name}.js`, here);
  return fileURLToPath(url);
}

/** Folder (or pipe prefix) for the sockets between stages. */
export async function socketFolder(): Promise<{ path(name: string): string; remove(): Promise<void> }> {
  if (process.platform === "win32") {
    const prefix = `\\\\.\\pipe\\chatspace-${process.pid}-${Date.now()}-`;
    return { path: (name) => prefix + name, remove: async () => undefined };
  }
  const folder = await mkdtemp(join(tmpdir(), "chatspace-"));
  return { path: (name) => join(folder, name), remove: () => rm(folder, { recursive: true, force: true }) };
}

/** How long the other stages get to say what they know before they are ended. */
const NEIGHBOURS_MS = 500;

/** Errors that say no more than that a neighbour is gone. */
const LINK_CODES = new Set([
  LINK_CODE,
  "EPIPE",
  "ECONNRESET",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_PREMATURE_CLOSE",
]);

/** Of the errors of several stages the one that explains the others. */
function rootCause(settled: readonly PromiseSettledResult<void>[]): unknown {
  const errors = settled
    .filter((result) => result.status === "rejected")
    .map((result) => result.reason as unknown);
  const rank = (error: unknown): number => {
    const { code, details } = error as SteerError;
    if (LINK_CODES.has(String(details?.systemCode))) return 2;
    return code === "ERR_STAGE_DIED" ? 1 : 0;
  };
  return errors.sort((a, b) => rank(a) - rank(b))[0];
}

export interface StageEvents {
  onMessage(stage: string, message: FromStage): void;
}

/** The running stages. `finished` settles when all have ended well, or the first badly. */
export class StageProcesses {
  readonly #children = new Map<string, ChildProcess>();
  readonly finished: Promise<void>;

  constructor(settings: StageSettings, devices: readonly string[], events: StageEvents) {
    const loader = this.#start("loader", "loader", settings, events);
    const writer = this.#start("writer", "writer", settings, events);
    const encoders = devices.map((device, i) =>
      this.#start(
        devices.length === 1 ? "encoder" : `encoder ${i} (${device})`,
        "encoder",
        { ...settings, device: devices.length === 1 ? device : `${device}#${i}` },
        events,
      ),
    );
    const all = [loader, writer, ...encoders];
    this.finished = (async () => {
      try {
        await Promise.all(all);
      } catch {
        // Its neighbours notice that it is gone; which of the errors came first says nothing.
        const settled = Promise.allSettled(all);
        await Promise.race([settled, new Promise((resolve) => setTimeout(resolve, NEIGHBOURS_MS))]);
        this.kill();
        throw rootCause(await settled);
      }
    })();
    this.finished.catch(() => undefined);
  }

  /** Process ids by stage, for tests and diagnostics. */
  get pids(): Record<string, number> {
    return Object.fromEntries([...this.#children].map(([name, child]) => [name, child.pid ?? -1]));
  }

  #start(name: string, file: string, settings: StageSettings, events: StageEvents): Promise<void> {
    const child = fork(entry(file), [], { stdio: ["ignore", "pipe", "pipe", "ipc"], execArgv: [] });
    this.#children.set(name, child);
    let tail = "";
    const keep = (chunk: Buffer): void => {
      tail = (tail + chunk.toString()).slice(-4000);
    };
    child.stdout?.on("data", keep);
    child.stderr?.on("data", keep);
    return new Promise((resolve, reject) => {
      let reported: Error | null = null;
      child.on("message", (message: FromStage) => {
        if (message.type === "error") reported = fromWire(message.error, name);
        else events.onMessage(name, message);
      });
      child.on("error", (error) => {
        reported ??= error;
      });
      child.on("close", (code, signal) => {
        if (code === 0) resolve();
        else {
          reject(
            reported ??
              new SteerError(
                "ERR_STAGE_DIED",
                `The ${name} process ended with ${signal === null ? `exit code ${code}` : signal}${tail === "" ? "" : `:\n${tail.trim()}`}`,
                {
                  details: { stage: name, exitCode: code, signal, output: tail },
                  remedies: [
                    "rerun with --resume: shards already in the journal are kept",
                    "out of memory? lower --tokens-per-batch or --window-rows",
                  ],
                },
              ),
          );
        }
      });
      child.send({ type: "start", settings } satisfies ToStage, (error) => {
        if (error) reported ??= error;
      });
    });
  }

  /** Asks the loader to end at the next shard; what was read is still written. */
  finishShard(): void {
    const loader = this.#children.get("loader");
    if (loader?.connected) loader.send({ type: "finish-shard" } satisfies ToStage);
  }

  /** Ends them all now. */
  kill(): void {
    for (const child of this.#children.values())
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
  }
}
