// SPDX-License-Identifier: Apache-2.0
// Worst deviation between what two devices computed, printed whether it passes or not.
import { expect } from "vitest";

export interface Deviation {
  maxAbs: number;
  index: number;
  cosine: number;
}

export function deviation(got: Float32Array, expected: Float32Array): Deviation {
  expect(got.length).toBe(expected.length);
  let maxAbs = 0;
  let index = 0;
  let dot = 0;
  let a = 0;
  let b = 0;
  for (let i = 0; i < got.length; i++) {
    const x = got[i] as number;
    const y = expected[i] as number;
    const difference = Math.abs(x - y);
    // Written so that NaN is the worst there is.
    if (!(difference <= maxAbs)) {
      maxAbs = difference;
      index = i;
      if (Number.isNaN(difference)) break;
    }
    dot += x * y;
    a += x * x;
    b += y * y;
  }
  return { maxAbs, index, cosine: a === 0 && b === 0 ? 1 : dot / Math.sqrt(a * b) };
}

/** Fails where the worst deviation is over `allowed`; always prints it. */
export function expectClose(what: string, got: Float32Array, expected: Float32Array, allowed: number): void {
  const { maxAbs, index, cosine } = deviation(got, expected);
  console.log(`${what}: max |delta| ${maxAbs.toExponential(2)} at ${index}, cosine ${cosine.toFixed(9)}`);
  expect(maxAbs, what).toBeLessThanOrEqual(allowed);
}
