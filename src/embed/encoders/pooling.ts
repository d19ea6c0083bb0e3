// SPDX-License-Identifier: Apache-2.0
// One vector a row out of one vector a token. The names and formulas are sentence-transformers' Pooling
// module; sums run in float64, so the order of a batch does not show.

import type { Pooling } from "../config.ts";

/** A batch of token vectors: [rows, length, dim] row-major; row i has `lengths[i]` real tokens, at the front. */
export interface TokenVectors {
  data: Float32Array;
  length: number;
  dim: number;
  lengths: ArrayLike<number>;
}

/** Pools row `row` of the batch into `out` at `at`. */
export function poolRow(
  input: TokenVectors,
  row: number,
  pooling: Pooling,
  out: Float32Array,
  at: number,
): void {
  const { data, dim, length } = input;
  const count = Math.max(1, input.lengths[row] as number);
  const base = row * length * dim;
  if (pooling === "cls" || pooling === "last") {
    const token = pooling === "cls" ? 0 : count - 1;
    out.set(data.subarray(base + token * dim, base + (token + 1) * dim), at);
    return;
  }
  if (pooling === "max") {
    out.set(data.subarray(base, base + dim), at);
    for (let token = 1; token < count; token++) {
      const from = base + token * dim;
      for (let i = 0; i < dim; i++) {
        const value = data[from + i] as number;
        if (value > (out[at + i] as number)) out[at + i] = value;
      }
    }
    return;
  }
  const sums = new Float64Array(dim);
  let weights = 0;
  for (let token = 0; token < count; token++) {
    const weight = pooling === "weighted-mean" ? token + 1 : 1;
    weights += weight;
    const from = base + token * dim;
    if (weight === 1)
      for (let i = 0; i < dim; i++) sums[i] = (sums[i] as number) + (data[from + i] as number);
    else for (let i = 0; i < dim; i++) sums[i] = (sums[i] as number) + weight * (data[from + i] as number);
  }
  const divisor = pooling === "mean-sqrt-len" ? Math.sqrt(count) : weights;
  for (let i = 0; i < dim; i++) out[at + i] = (sums[i] as number) / divisor;
}

/** Scales a row to length 1; a row of zeros stays. */
export function normalizeRow(values: Float32Array, at: number, dim: number): void {
  const norm = rowNorm(values, at, dim);
  if (norm === 0) return;
  for (let i = at; i < at + dim; i++) values[i] = (values[i] as number) / norm;
}

/** L2 norm of a row. */
export function rowNorm(values: Float32Array, at: number, dim: number): number {
  let sum = 0;
  for (let i = at; i < at + dim; i++) sum += (values[i] as number) ** 2;
  return Math.sqrt(sum);
}
