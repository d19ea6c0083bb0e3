// SPDX-License-Identifier: Apache-2.0
// Batches of a window: rows sorted by length, cut by a token budget. A function of the lengths alone, so
// that a run that was killed forms the same batches again and gets the same floats.

import type { BatchLimits } from "./encoders/encoder.ts";

export interface Batch {
  /** Row numbers within the window. */
  rows: Int32Array;
  /** Tokens of the longest of them: what the batch is padded to. */
  length: number;
}

/**
 * Sorts by length, longest first (memory peaks at once, not late), and fills each batch while
 * rows x longest stays within the budget. A row longer than the budget gets a batch of its own.
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
  const batches: Batch[] = [];
  let start = 0;
  while (start < rows) {
    const longest = lengths[order[start] as number] as number;
    const counted = Math.max(longest, limits.minTokens, 1);
    const byTokens =
      limits.tokensPerBatch === null ? rows : Math.max(1, Math.floor(limits.tokensPerBatch / counted));
    const count = Math.min(byTokens, limits.batchSize ?? rows, rows - start);
    batches.push({ rows: order.slice(start, start + count), length: longest });
    start += count;
  }
  return batches;
}
