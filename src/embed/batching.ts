// SPDX-License-Identifier: Apache-2.0
// Batches of a window: rows sorted by length, cut within a token budget where padding is least. A function of the lengths alone, so
// that a run that was killed forms the same batches again and gets the same floats.

import type { BatchLimits } from "./encoders/encoder.ts";

export interface Batch {
  /** Row numbers within the window. */
  rows: Int32Array;
  /** Tokens of the longest of them: what the batch is padded to. */
  length: number;
}

/**
 * What a batch costs beside its tokens, in tokens: starting the kernels, filling the threads. Small on a
 * processor, large on a GPU. Part of a run's identity through the device kind.
 */
export const BATCH_COST = { cpu: 48, gpu: 2048 } as const;

/**
 * Sorts rows by length, longest first, and cuts the sequence where the sum of padded tokens and batch
 * costs is least, each batch within the budget (dynamic programming over the cuts). A row longer than the
 * budget gets a batch of its own. Memory peaks at once, not late.
 */
export function planBatches(offsets: Int32Array, limits: BatchLimits): Batch[] {
  const rows = offsets.length - 1;
  const lengths = new Int32Array(rows);
  const order = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    lengths[row] = (offsets[row + 1] as number) - (offsets[row] as number);
    order[row] = row;
  }
  order.sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
  const cost = new Float64Array(rows + 1);
  const cut = new Int32Array(rows + 1);
  const overhead = limits.batchCost ?? BATCH_COST.cpu;
  // From the end: cost[i] = least cost of the rows from i on, cut[i] = where the batch that begins at i ends.
  for (let start = rows - 1; start >= 0; start--) {
    const longest = lengths[order[start] as number] as number;
    const counted = Math.max(longest, limits.minTokens, 1);
    const most =
      limits.tokensPerBatch === null ? rows : Math.max(1, Math.floor(limits.tokensPerBatch / counted));
    const last = Math.min(rows, start + Math.min(most, limits.batchSize ?? rows));
    let best = Number.POSITIVE_INFINITY;
    for (let end = last; end > start; end--) {
      const total = (end - start) * longest + overhead + (cost[end] as number);
      if (total < best) {
        best = total;
        cut[start] = end;
      }
    }
    cost[start] = best;
  }
  const batches: Batch[] = [];
  for (let start = 0; start < rows; start = cut[start] as number)
    batches.push({ rows: order.slice(start, cut[start]), length: lengths[order[start] as number] as number });
  return batches;
}
