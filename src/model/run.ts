// SPDX-License-Identifier: Apache-2.0
// One request on the engine: its events as an async iterator, cancellation by AbortSignal, and errors of
// the addon turned into ours. The addon calls back on this thread; nothing here waits synchronously.

import { DisposedError } from "../errors.ts";
import type {
  NativeDoneEvent,
  NativeEvent,
  NativeModel,
  NativeRequest,
  NativeTokensEvent,
} from "../native/contract.ts";
import { nativeError, parseDetails, translateNativeError } from "../native/error-map.ts";

/**
 * Submits a request and yields its token events; returns the final one.
 *
 * Leaving the iterator early (break, throw) or the signal aborting ends the request at the next step.
 * @throws signal.reason when the signal aborts; SteerError when the engine reports an error.
 */
export async function* runRequest(
  native: NativeModel,
  request: NativeRequest,
  signal: AbortSignal | undefined,
): AsyncGenerator<NativeTokensEvent, NativeDoneEvent, undefined> {
  signal?.throwIfAborted();
  const events: NativeEvent[] = [];
  let wake: (() => void) | undefined;
  const notify = () => {
    wake?.();
    wake = undefined;
  };
  let ended = false;
  const id = submit(native, request, (event) => {
    if (event.type !== "tokens") ended = true;
    events.push(event);
    notify();
  });
  const onAbort = () => {
    native.abort(id);
    notify();
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      signal?.throwIfAborted();
      const event = events.shift();
      if (event === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      if (event.type === "tokens") yield event;
      else if (event.type === "done") return finished(event);
      else throw nativeError(event.code, event.message, parseDetails(event.details));
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    if (!ended) native.abort(id);
  }
}

function submit(native: NativeModel, request: NativeRequest, onEvent: (event: NativeEvent) => void): number {
  try {
    return native.submit(request, onEvent);
  } catch (error) {
    throw translateNativeError(error);
  }
}

/** Runs a request to its end. */
export async function runToEnd(
  native: NativeModel,
  request: NativeRequest,
  signal: AbortSignal | undefined,
): Promise<{ done: NativeDoneEvent; events: NativeTokensEvent[] }> {
  const events: NativeTokensEvent[] = [];
  const running = runRequest(native, request, signal);
  for (;;) {
    const next = await running.next();
    if (next.done) return { done: next.value, events };
    events.push(next.value);
  }
}

/** Nobody here asked for an abort (that throws signal.reason), so the model was disposed under it. */
function finished(event: NativeDoneEvent): NativeDoneEvent {
  if (event.finish === "aborted") throw disposedError("the model was disposed while a request ran");
  return event;
}

export function disposedError(message: string): DisposedError {
  return new DisposedError("ERR_DISPOSED", message, {
    remedies: ["load the model again, or dispose of it only after the last answer"],
  });
}
