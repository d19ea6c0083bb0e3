// SPDX-License-Identifier: Apache-2.0
// MT19937, the generator under both CPython's `random` and numpy's legacy RandomState: the two differ in
// how they seed it and in what they make of its words, so the words live here alone.
// Source: Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998).

const N = 624;
const M = 397;
const UPPER = 0x80000000;
const LOWER = 0x7fffffff;

/** The bare word stream of MT19937. */
export class MersenneTwister {
  readonly #state = new Uint32Array(N);
  #index = N;

  /** Knuth's linear initialisation from one 32-bit word (numpy's legacy seeding). */
  seedWord(seed: number): void {
    const state = this.#state;
    state[0] = seed >>> 0;
    for (let i = 1; i < N; i++) {
      const previous = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = Math.imul(1812433253, previous) + i;
    }
    this.#index = N;
  }

  /** Initialisation from a key of 32-bit words, at least one (CPython's seeding). */
  seedKey(key: readonly number[]): void {
    this.seedWord(19650218);
    const state = this.#state;
    let i = 1;
    let j = 0;
    for (let k = Math.max(N, key.length); k > 0; k--) {
      const previous = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = (state[i]! ^ Math.imul(previous, 1664525)) + key[j]! + j;
      if (++i >= N) {
        state[0] = state[N - 1]!;
        i = 1;
      }
      if (++j >= key.length) j = 0;
    }
    for (let k = N - 1; k > 0; k--) {
      const previous = state[i - 1]! ^ (state[i - 1]! >>> 30);
      state[i] = (state[i]! ^ Math.imul(previous, 1566083941)) - i;
      if (++i >= N) {
        state[0] = state[N - 1]!;
        i = 1;
      }
    }
    state[0] = UPPER;
    this.#index = N;
  }

  /** The next 32-bit word, tempered. */
  nextWord(): number {
    if (this.#index >= N) this.#twist();
    let y = this.#state[this.#index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return y >>> 0;
  }

  /** A double in [0, 1) with 53 random bits, from two words. */
  nextDouble(): number {
    const high = this.nextWord() >>> 5;
    const low = this.nextWord() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  /** The 624 state words and the read position, as CPython's getstate gives them. */
  snapshot(): number[] {
    return [...this.#state, this.#index];
  }

  #twist(): void {
    const state = this.#state;
    for (let k = 0; k < N; k++) {
      const y = (state[k]! & UPPER) | (state[(k + 1) % N]! & LOWER);
      state[k] = state[(k + M) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#index = 0;
  }
}
