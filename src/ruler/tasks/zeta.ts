// SPDX-License-Identifier: Apache-2.0
// Riemann's zeta for the frequent-words task, by Euler and Maclaurin's formula.

/** Bernoulli numbers B(2), B(4), ... as fractions. */
const BERNOULLI: readonly (readonly [number, number])[] = [
  [1, 6],
  [-1, 30],
  [1, 42],
  [-1, 30],
  [5, 66],
  [-691, 2730],
  [7, 6],
  [-3617, 510],
  [43867, 798],
  [-174611, 330],
  [854513, 138],
  [-236364091, 2730],
];

/** (2k)!/B(2k), k = 1... */
const TERMS = BERNOULLI.map(([top, bottom], i) => {
  let factorial = 1;
  for (let n = 2; n <= 2 * (i + 1); n++) factorial *= n;
  return (factorial / top) * bottom;
});

/** zeta(x), x > 1, to the last bit or so of a double. */
export function riemannZeta(x: number): number {
  let sum = 1;
  let n = 1;
  let term = 0;
  for (let i = 0; i < 9; i++) {
    n += 1;
    term = n ** -x;
    sum += term;
    if (Math.abs(term / sum) < 2 ** -53) return sum;
  }
  sum += (term * n) / (x - 1) - 0.5 * term;
  let factor = 1;
  for (let k = 0; k < TERMS.length; k++) {
    factor *= x + 2 * k;
    term /= n;
    const add = (factor * term) / TERMS[k]!;
    sum += add;
    if (Math.abs(add / sum) < 2 ** -53) break;
    factor *= x + 2 * k + 1;
    term /= n;
  }
  return sum;
}
