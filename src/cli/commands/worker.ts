// SPDX-License-Identifier: Apache-2.0
// worker: makes shard ranges of queued runs (embed-hf --queue) until it is told to stop.

import type { Command } from "commander";
import { InterruptError } from "../interrupt.ts";
import { positiveInteger } from "../options.ts";
import { note, printJsonLine } from "../terminal.ts";

interface Flags {
  queue: string;
  outputRoot: string;
  device?: string;
  threads?: number;
  idleExit?: number;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("worker")
    .description("take shard ranges of queued runs (embed-hf --queue) and make them here")
    .requiredOption("--queue <redis-url>", "the Redis the run was queued on")
    .option("--output-root <folder>", "where this worker's shards go", "./chatspace-data")
    .option("--device <list>", "devices of this machine (default: as the run says)")
    .option("--threads <n>", "threads of an encoder process", positiveInteger)
    .option("--idle-exit <seconds>", "end after so long without work", positiveInteger)
    .option("--json", "events as JSON lines on stdout")
    .addHelpText(
      "after",
      `
Example:
  $ redis-server --port 6379 &
  $ chatspace-steer worker --queue redis://127.0.0.1:6379 --output-root ./w1 &
  $ chatspace-steer embed-hf --dataset ./texts --model ./encoder --queue redis://127.0.0.1:6379

Ctrl-C once ends after the range that is begun, twice ends now; another worker takes the range over.`,
    )
    .action(async (flags: Flags) => {
      const { runWorker } = await import("../../embed/queue/worker.ts");
      const stop = new AbortController();
      const now = new AbortController();
      const onSignal = (): void => {
        if (stop.signal.aborted) now.abort(new InterruptError("interrupted"));
        else {
          stop.abort(new InterruptError("interrupted"));
          note("stopping after the range that is begun; once more to stop now");
        }
      };
      process.on("SIGINT", onSignal);
      process.on("SIGTERM", onSignal);
      try {
        const { idleExit, json, ...rest } = flags;
        const done = await runWorker({
          ...rest,
          idleExitSeconds: idleExit ?? null,
          stop: stop.signal,
          signal: now.signal,
          onEvent: (event) => {
            if (json) printJsonLine(event);
            else if (event.range !== undefined)
              note(
                `${event.event} shards ${event.range.start}..${event.range.end}${event.error === undefined ? "" : `: ${event.error}`}`,
              );
            else note(event.event);
          },
        });
        note(`${done} ranges done`);
      } finally {
        process.off("SIGINT", onSignal);
        process.off("SIGTERM", onSignal);
      }
    });
}
