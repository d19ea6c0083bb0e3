// SPDX-License-Identifier: Apache-2.0
// CPython's random.Random, draw for draw: byte-identical RULER data needs the same words consumed in the
// same order, rejections included. Behaviour of CPython 3.11; checked against recorded streams.

import { misuse } from "../../errors.ts";
import { MersenneTwister } from "./mersenne.ts";

/** The part of CPython's `random.Random` that RULER draws from. */
export class PythonRandom {
  readonly #mt = new MersenneTwister();

  /** @param seed any integer; its sign is ignored, as in CPython */
  constructor(seed: number | bigint) {
    this.seed(seed);
  }

  seed(seed: number | bigint): void {
    let rest = BigInt(seed);
    if (rest < 0n) rest = -rest;
    const key: number[] = [];
    while (rest > 0n) {
      key.push(Number(rest & 0xffffffffn));
      rest >>= 32n;
    }
    this.#mt.seedKey(key.length > 0 ? key : [0]);
  }

  /** A double in [0, 1). */
  random(): number {
    return this.#mt.nextDouble();
  }

  /** @param bits 1 to 32 */
  getrandbits(bits: number): number {
    return this.#mt.nextWord() >>> (32 - bits);
  }

  /** As getrandbits for any width: words from the least significant up, the last one cut. */
  getrandbitsBig(bits: number): bigint {
    let value = 0n;
    for (let shift = 0; shift < bits; shift += 32) {
      const left = bits - shift;
      const word = left < 32 ? this.#mt.nextWord() >>> (32 - left) : this.#mt.nextWord();
      value |= BigInt(word) << BigInt(shift);
    }
    return value;
  }

  /** An integer in [0, n), 1 <= n <= 2^32 - 1. Draws even when n is 1, until the bit is 0. */
  randbelow(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > 0xffffffff)
      throw misuse(RangeError, "ERR_RULER_RANDOM_RANGE", "randbelow", "an integer from 1 to 2^32 - 1", n);
    const shift = Math.clz32(n);
    let r = this.#mt.nextWord() >>> shift;
    while (r >= n) r = this.#mt.nextWord() >>> shift;
    return r;
  }

  /** An integer in [low, high], both included. */
  randint(low: number, high: number): number {
    return low + this.randbelow(high - low + 1);
  }

  choice<T>(items: readonly T[]): T {
    return items[this.randbelow(items.length)]!;
  }

  /** k characters of an alphabet, with replacement (`''.join(random.choices(alphabet, k=k))`). */
  choiceString(alphabet: string, k: number): string {
    let text = "";
    for (let i = 0; i < k; i++) text += alphabet[Math.floor(this.random() * alphabet.length)]!;
    return text;
  }

  uniform(low: number, high: number): number {
    return low + (high - low) * this.random();
  }

  /** Fisher-Yates from the end, in place. */
  shuffle<T>(items: T[]): void {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.randbelow(i + 1);
      const held = items[i]!;
      items[i] = items[j]!;
      items[j] = held;
    }
  }

  /**
   * `random.sample(range(n), k)`. CPython keeps a pool for small n and a set of what was taken for large n;
   * the two draw differently, so both are here.
   */
  sampleIndices(n: number, k: number): number[] {
    if (k < 0 || k > n)
      throw misuse(RangeError, "ERR_RULER_RANDOM_RANGE", "sample", `a size from 0 to ${n}`, k);
    let setSize = 21;
    if (k > 5) setSize += 4 ** Math.ceil(Math.log(k * 3) / Math.log(4));
    const result = new Array<number>(k);
    if (n <= setSize) {
      const pool = Array.from({ length: n }, (_, i) => i);
      for (let i = 0; i < k; i++) {
        const j = this.randbelow(n - i);
        result[i] = pool[j]!;
        pool[j] = pool[n - i - 1]!;
      }
      return result;
    }
    const taken = new Set<number>();
    for (let i = 0; i < k; i++) {
      let j = this.randbelow(n);
      while (taken.has(j)) j = this.randbelow(n);
      taken.add(j);
      result[i] = j;
    }
    return result;
  }

  sample<T>(items: readonly T[], k: number): T[] {
    return this.sampleIndices(items.length, k).map((i) => items[i]!);
  }

  /** `str(uuid.UUID(int=random.getrandbits(128), version=4))`. */
  uuid4(): string {
    // Four words, least significant first: the variant sits in word 1, the version in word 2.
    const w0 = this.#mt.nextWord();
    const w1 = ((this.#mt.nextWord() & 0x3fffffff) | 0x80000000) >>> 0;
    const w2 = ((this.#mt.nextWord() & 0xffff0fff) | 0x4000) >>> 0;
    const w3 = this.#mt.nextWord();
    const hex = hex8(w3) + hex8(w2) + hex8(w1) + hex8(w0);
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }

  snapshot(): number[] {
    return this.#mt.snapshot();
  }
}

const BYTES = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

function hex8(word: number): string {
  return BYTES[word >>> 24]! + BYTES[(word >>> 16) & 255]! + BYTES[(word >>> 8) & 255]! + BYTES[word & 255]!;
}

const permutations = new Map<string, Uint32Array>();
let permutedTotal = 0;
const MOST_PERMUTED = 1 << 22;

/**
 * The permutation `random.Random(seed).shuffle` applies to a list of n: result[i] is the old place of the new
 * i-th. Samples of a task share their lengths, so permutations are kept; do not write to one.
 */
export function seededPermutation(seed: number, n: number): Uint32Array {
  const key = `${seed} ${n}`;
  let order = permutations.get(key);
  if (order) return order;
  const random = new PythonRandom(seed);
  order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.randbelow(i + 1);
    const held = order[i]!;
    order[i] = order[j]!;
    order[j] = held;
  }
  if (permutedTotal + n > MOST_PERMUTED) {
    permutations.clear();
    permutedTotal = 0;
  }
  permutations.set(key, order);
  permutedTotal += n;
  return order;
}
