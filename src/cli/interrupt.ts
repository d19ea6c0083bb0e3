// SPDX-License-Identifier: Apache-2.0
// Ctrl-C: the first one ends the work cleanly (exit 130), a second one does not wait.

import { EXIT } from "./exit-codes.ts";

export class InterruptError extends Error {
  override readonly name = "InterruptError";
}

/** Runs work with a signal that SIGINT and SIGTERM fire; the handlers are gone afterwards. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new InterruptError("interrupted"));
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
  }
}
