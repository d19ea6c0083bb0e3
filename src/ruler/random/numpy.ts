// SPDX-License-Identifier: Apache-2.0
// numpy's legacy RandomState (np.random.seed and friends), draw for draw. RULER itself needs randint alone;
// the rest is what its variants and other long-context generators call, kept because the streams are recorded.

import { misuse } from "../../errors.ts";
import { MersenneTwister } from "./mersenne.ts";

/** numpy's legacy generator over MT19937. */
export class NumpyRandom {
  readonly #mt = new MersenneTwister();
  /** The second normal of a polar pair, kept for the next call. */
  #spareNormal: number | undefined;

  /** @param seed an integer from 0 to 2^32 - 1 */
  constructor(seed: number) {
    if (!Number.isInteger(seed) || seed < 0 || seed > 0xffffffff)
      throw misuse(RangeError, "ERR_RULER_SEED", "NumpyRandom", "a seed from 0 to 2^32 - 1", seed);
    this.#mt.seedWord(seed);
  }

  /** An integer in [low, high): masked rejection, one word a try. */
  randint(low: number, high: number): number {
    return low + this.#below(high - low - 1);
  }

  randomSample(): number {
    return this.#mt.nextDouble();
  }

  uniform(low: number, high: number): number {
    return low + (high - low) * this.#mt.nextDouble();
  }

  shuffle<T>(items: T[]): void {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.#below(i);
      const held = items[i]!;
      items[i] = items[j]!;
      items[j] = held;
    }
  }

  permutation(n: number): number[] {
    const order = Array.from({ length: n }, (_, i) => i);
    this.shuffle(order);
    return order;
  }

  /** k of range(n) without replacement. */
  choiceDistinct(n: number, k: number): number[] {
    return this.permutation(n).slice(0, k);
  }

  /** k of range(n) with replacement. */
  choice(n: number, k: number): number[] {
    return Array.from({ length: k }, () => this.randint(0, n));
  }

  /** k of range(p.length) with replacement, by probability. */
  choiceWeighted(p: readonly number[], k: number): number[] {
    const cumulative: number[] = [];
    let sum = 0;
    for (const weight of p) {
      sum += weight;
      cumulative.push(sum);
    }
    return Array.from({ length: k }, () => {
      const draw = this.#mt.nextDouble();
      let i = 0;
      while (i < p.length - 1 && cumulative[i]! / sum <= draw) i++;
      return i;
    });
  }

  /** Marsaglia's polar method, the second of each pair first. */
  standardNormal(): number {
    if (this.#spareNormal !== undefined) {
      const spare = this.#spareNormal;
      this.#spareNormal = undefined;
      return spare;
    }
    for (;;) {
      const x1 = 2 * this.#mt.nextDouble() - 1;
      const x2 = 2 * this.#mt.nextDouble() - 1;
      const r2 = x1 * x1 + x2 * x2;
      if (r2 >= 1 || r2 === 0) continue;
      const factor = Math.sqrt((-2 * Math.log(r2)) / r2);
      this.#spareNormal = factor * x1;
      return factor * x2;
    }
  }

  /** Zipf's distribution by rejection (Devroye 1986, X.6.1). */
  zipf(a: number): number {
    const am1 = a - 1;
    const b = 2 ** am1;
    for (;;) {
      const u = 1 - this.#mt.nextDouble();
      const v = this.#mt.nextDouble();
      const x = Math.floor(u ** (-1 / am1));
      if (x > 2 ** 63 || x < 1) continue;
      const t = (1 + 1 / x) ** am1;
      if ((v * x * (t - 1)) / (b - 1) <= t / b) return x;
    }
  }

  /** An integer in [0, max]. */
  #below(max: number): number {
    if (max === 0) return 0;
    const mask = max >= 0x80000000 ? 0xffffffff : 2 ** (32 - Math.clz32(max)) - 1;
    let value = (this.#mt.nextWord() & mask) >>> 0;
    while (value > max) value = (this.#mt.nextWord() & mask) >>> 0;
    return value;
  }
}
