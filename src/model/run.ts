// SPDX-License-Identifier: Apache-2.0
// One request on the engine: its events as an async iterator, cancellation by AbortSignal, and errors of
// the addon turned into ours. The addon calls back on this thread; nothing here waits synchronously.

import { DisposedError } from "../errors.ts";
import type {
  NativeCapturesEvent,
  NativeDoneEvent,
  NativeEvent,
  NativeModel,
  NativeRequest,
  NativeTokensEvent,
} from "../native/contract.ts";
import { nativeError, parseDetails, translateNativeError } from "../native/error-map.ts";
import { whenAborted } from "./abort.ts";

/** Takes a piece of a stream of captures; the request is held up for as long as a promise is open. */
export type CaptureHandler = (event: NativeCapturesEvent) => void | Promise<void>;

/**
 * Submits a request and yields its token events; returns the final one. Pieces of a stream of captures go
 * to `onCaptures` and are acknowledged when it is done with them.
 *
 * Leaving the iterator early (break, throw) or the signal aborting ends the request at the next step.
 * @throws signal.reason when the signal aborts; SteerError when the engine reports an error.
 */
export async function* runRequest(
  native: NativeModel,
  request: NativeRequest,
  signal: AbortSignal | undefined,
  onCaptures?: CaptureHandler,
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
    if (event.type === "done" || event.type === "error") ended = true;
    events.push(event);
    notify();
  });
  const forget = whenAborted(signal, () => {
    native.abort(id);
    notify();
  });
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
      else if (event.type === "captures") {
        await unlessAborted(onCaptures?.(event), signal);
        native.acknowledge(id, event.bytes);
      } else if (event.type === "done") return finished(event);
      else throw nativeError(event.code, event.message, parseDetails(event.details));
    }
  } finally {
    forget();
    if (!ended) native.abort(id);
  }
}

/** Waits for the work, or for the signal, which rejects with its reason. */
async function unlessAborted(work: void | Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (work === undefined || signal === undefined) return work;
  let forget: (() => void) | undefined;
  try {
    await Promise.race([
      work,
      new Promise<never>((_, reject) => {
        forget = whenAborted(signal, () => reject(signal.reason));
      }),
    ]);
  } finally {
    forget?.();
  }
}

const gathering = new WeakSet<NativeModel>();

/**
 * Requests that are submitted in one turn of the event loop, as a list or as calls that overlap, start together:
 * else the first ones would run while the last are still being prepared.
 */
function gather(native: NativeModel): void {
  if (gathering.has(native)) return;
  gathering.add(native);
  native.hold(true);
  queueMicrotask(() => {
    gathering.delete(native);
    native.hold(false);
  });
}

function submit(native: NativeModel, request: NativeRequest, onEvent: (event: NativeEvent) => void): number {
  gather(native);
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
  onCaptures?: CaptureHandler,
): Promise<{ done: NativeDoneEvent; events: NativeTokensEvent[] }> {
  const events: NativeTokensEvent[] = [];
  const running = runRequest(native, request, signal, onCaptures);
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
