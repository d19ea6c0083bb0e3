// SPDX-License-Identifier: Apache-2.0
// How large a haystack fits, and what to do when a sample comes out too long. Every probe draws a whole sample
// from the task's random stream, so the order of probes decides the bytes: it is upstream's, step for step.

/** One text of a task and the answers to it. */
export interface Draft {
  readonly text: string;
  readonly outputs: readonly string[];
}

/** A probe of the search, as upstream logs it. */
export interface Probe {
  readonly size: number;
  readonly tokens: number;
}

export interface SizeSearch {
  /** Upper end of the first bracket from the tokens of the first probe. */
  readonly upper: number;
  readonly lower: number;
  readonly limit: number;
  /** Tokens of a fresh draft of this size, the answer's share included. */
  readonly measure: (size: number) => number;
}

/** Binary search for the largest size that fits; undefined where none did. */
export function searchSize(search: SizeSearch, log: (probe: Probe) => void): number | undefined {
  let low = search.lower;
  let high = search.upper;
  let best: number | undefined;
  while (low <= high) {
    const size = Math.floor((low + high) / 2);
    const tokens = search.measure(size);
    log({ size, tokens });
    if (tokens <= search.limit) {
      best = size;
      low = size + 1;
    } else high = size - 1;
  }
  return best;
}

/** Upstream raised an exception here. In the sample loop it tries again, in the search it dies. */
export class DraftFault extends Error {}

/** No draft of the smallest size fits: upstream would try for ever. */
export class DoesNotFit extends Error {
  /** The shortest draft seen, in tokens. */
  readonly shortest: number;

  constructor(shortest: number) {
    super(`no draft fits; the shortest had ${shortest} tokens`);
    this.shortest = shortest;
  }
}

export interface Fitted<T> {
  readonly draft: T;
  readonly length: number;
}

/** Tries drafts, smaller each time down to the floor, until one fits. `patience`: tries at the floor. */
export function fitDraft<T>(
  size: number,
  floor: number,
  limit: number,
  patience: number,
  make: (size: number) => Fitted<T>,
): Fitted<T> {
  let used = size;
  let shortest = Number.POSITIVE_INFINITY;
  for (let atFloor = 0; atFloor < patience; ) {
    if (used <= floor) atFloor++;
    try {
      const fitted = make(used);
      if (fitted.length <= limit) return fitted;
      shortest = Math.min(shortest, fitted.length);
    } catch (error) {
      if (!(error instanceof DraftFault)) throw error;
    }
    if (used > floor) used -= floor;
  }
  throw new DoesNotFit(shortest);
}
