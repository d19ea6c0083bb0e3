// SPDX-License-Identifier: Apache-2.0
// Intervals for mean scores and paired differences, by the percentile bootstrap (Efron 1979), seeded: the same
// predictions give the same interval.

import { PythonRandom } from "./random/python.ts";

export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  /** Samples behind it. */
  readonly count: number;
}

export interface BootstrapOptions {
  /** Default 0.95. */
  readonly confidence?: number;
  /** Default 2000. */
  readonly resamples?: number;
  /** Default 42. */
  readonly seed?: number;
}

/** The mean of some values and where it may lie. */
export function bootstrapMean(values: readonly number[], options: BootstrapOptions = {}): Interval {
  const { confidence = 0.95, resamples = 2000, seed = 42 } = options;
  const count = values.length;
  if (count === 0) return { mean: Number.NaN, low: Number.NaN, high: Number.NaN, count };
  const mean = sum(values) / count;
  if (values.every((v) => v === values[0])) return { mean, low: mean, high: mean, count };
  const random = new PythonRandom(seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let total = 0;
    for (let i = 0; i < count; i++) total += values[Math.floor(random.random() * count)]!;
    means[r] = total / count;
  }
  means.sort();
  const tail = (1 - confidence) / 2;
  return { mean, low: quantile(means, tail), high: quantile(means, 1 - tail), count };
}

/** The mean of b - a over pairs, and where it may lie. */
export function bootstrapDifference(
  a: readonly number[],
  b: readonly number[],
  options: BootstrapOptions = {},
): Interval {
  return bootstrapMean(
    a.map((value, i) => b[i]! - value),
    options,
  );
}

function sum(values: readonly number[]): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** Linear interpolation between order statistics. */
function quantile(sorted: Float64Array, q: number): number {
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (at - low);
}
