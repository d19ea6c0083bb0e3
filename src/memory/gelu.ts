// SPDX-License-Identifier: Apache-2.0
// The exact GELU, x times the normal distribution function, in float64. JavaScript has no erf.

const TWO_OVER_ROOT_PI = 2 / Math.sqrt(Math.PI);

/**
 * The error function, to 1e-15: the series of positive terms
 * (Abramowitz and Stegun 7.1.6), which cancels nothing. Beyond 6 it is 1 in float64.
 */
export function erf(x: number): number {
  const size = Math.abs(x);
  if (!(size < 6)) return Number.isNaN(x) ? x : Math.sign(x);
  let term = size;
  let sum = size;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * size * size) / (2 * n + 1);
    sum += term;
  }
  return Math.sign(x) * Math.min(1, TWO_OVER_ROOT_PI * Math.exp(-size * size) * sum);
}

/** x * Phi(x) (Hendrycks and Gimpel 2016), not the tanh approximation. */
export function gelu(x: number): number {
  return 0.5 * x * (1 + erf(x * Math.SQRT1_2));
}
