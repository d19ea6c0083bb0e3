// SPDX-License-Identifier: Apache-2.0
// A fetch that waits and asks again where a service is busy or the line is cut, and says so in the end.

import { ServiceError } from "../../errors.ts";

export interface RetryOptions {
  /** Tries in all. */
  tries: number;
  /** First wait; doubles each time up to `maxWaitMs`, with jitter. A Retry-After header has precedence. */
  waitMs: number;
  maxWaitMs: number;
  signal?: AbortSignal;
  fetch?: typeof fetch;
}

export const DEFAULT_RETRY: RetryOptions = { tries: 8, waitMs: 500, maxWaitMs: 30_000 };

/** Waits; rejects with the signal's reason when it fires. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** Milliseconds before try number `attempt` + 1 (attempt counts from 1). */
export function waitBefore(attempt: number, options: RetryOptions, retryAfter: string | null): number {
  if (retryAfter !== null) {
    const seconds = Number(retryAfter);
    const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(retryAfter) - Date.now();
    if (Number.isFinite(ms)) return Math.min(Math.max(ms, 0), 10 * 60_000);
  }
  const full = Math.min(options.waitMs * 2 ** (attempt - 1), options.maxWaitMs);
  return full / 2 + (Math.random() * full) / 2;
}

/** Statuses that may pass by themselves. */
export function isTransient(status: number): boolean {
  return status === 408 || status === 425 || status === 429 || status >= 500;
}

/** What a connection that never gave an answer becomes. */
export function unreachable(url: string, tries: number, cause: unknown): ServiceError {
  const inner = (cause as { cause?: { message?: string; code?: string } } | null)?.cause;
  const why = inner?.message || inner?.code || (cause as Error | null)?.message || String(cause);
  return new ServiceError("ERR_SERVICE_UNREACHABLE", `${url} did not answer in ${tries} tries: ${why}`, {
    details: { url, tries },
    remedies: ["check the address and the network", "rerun with --resume later: what was fetched is kept"],
    cause,
  });
}

/** Builds a fetch that retries; its last answer is returned whatever its status. */
export function retryingFetch(options: RetryOptions): typeof fetch {
  const plain = options.fetch ?? fetch;
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    for (let attempt = 1; ; attempt++) {
      try {
        const signal = init?.signal ?? options.signal;
        const response = await plain(input, { ...init, ...(signal ? { signal } : {}) });
        if (!isTransient(response.status) || attempt >= options.tries) return response;
        await response.body?.cancel();
        await pause(waitBefore(attempt, options, response.headers.get("retry-after")), options.signal);
      } catch (error) {
        if (options.signal?.aborted) throw options.signal.reason;
        if (attempt >= options.tries) throw unreachable(url, attempt, error);
        await pause(waitBefore(attempt, options, null), options.signal);
      }
    }
  };
}
