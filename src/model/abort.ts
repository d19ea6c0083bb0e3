// SPDX-License-Identifier: Apache-2.0
// One signal for many requests: Node warns of a leak from the eleventh listener of a signal on, so each signal
// gets one listener here, for as long as somebody waits for it.

interface Waiting {
  calls: Set<() => void>;
  listener: () => void;
}

const waiting = new WeakMap<AbortSignal, Waiting>();

/** Calls `run` when the signal aborts, in the order of these calls. @returns what takes it back. */
export function whenAborted(signal: AbortSignal | undefined, run: () => void): () => void {
  if (signal === undefined) return () => undefined;
  const known = waiting.get(signal) ?? listen(signal);
  // The same function may be given twice.
  const call = () => run();
  known.calls.add(call);
  return () => {
    known.calls.delete(call);
    if (known.calls.size > 0 || waiting.get(signal) !== known) return;
    waiting.delete(signal);
    signal.removeEventListener("abort", known.listener);
  };
}

function listen(signal: AbortSignal): Waiting {
  const calls = new Set<() => void>();
  const listener = () => {
    waiting.delete(signal);
    for (const call of [...calls]) call();
  };
  signal.addEventListener("abort", listener, { once: true });
  const made = { calls, listener };
  waiting.set(signal, made);
  return made;
}
