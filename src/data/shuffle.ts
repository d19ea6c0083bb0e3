// SPDX-License-Identifier: Apache-2.0
// A seeded permutation of 0..n-1 that needs no memory, so that a shuffle of a billion rows is as cheap
// to describe as one of ten. A balanced Feistel network over the smallest power of four that covers n,
// walked until it lands inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains").

import { misuse } from "../errors.ts";

const ROUNDS = 6;

/** 32-bit mixer (the finaliser of MurmurHash3). */
function mix32(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Uniform 32-bit numbers from a seed (a counter through mix32, twice). */
export function seededUint32(seed: number): () => number {
  let counter = mix32(seed) ^ mix32(Math.floor(seed / 2 ** 32) + 0x9e3779b9);
  return () => {
    counter = (counter + 0x9e3779b9) >>> 0;
    return mix32(mix32(counter) ^ 0x5bd1e995);
  };
}

/** A number in [0, 1) with 53 bits, from the generator given. */
export function uniform(next: () => number): number {
  return ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
}

/** A permutation of 0..size-1 and its inverse, the same for the same size and seed. */
export interface Permutation {
  readonly size: number;
  /** Where the element at `index` goes. */
  forward(index: number): number;
  /** Which element comes to `position`. */
  inverse(position: number): number;
}

/** Builds the permutation; `size` up to 2^48, `seed` a whole number from 0 to 2^53 - 1. */
export function seededPermutation(size: number, seed: number): Permutation {
  if (!Number.isSafeInteger(size) || size < 0 || size > 2 ** 48)
    throw misuse(RangeError, "ERR_SHUFFLE_SIZE", "seededPermutation size", "a whole number up to 2^48", size);
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw misuse(RangeError, "ERR_SHUFFLE_SEED", "shuffle seed", "a whole number from 0 to 2^53 - 1", seed);
  let halfBits = 1;
  while (4 ** halfBits < size) halfBits++;
  const half = 2 ** halfBits;
  const next = seededUint32(seed);
  const keys = Array.from({ length: ROUNDS }, () => next());

  const once = (value: number, order: readonly number[], backwards: boolean): number => {
    let left = Math.floor(value / half);
    let right = value % half;
    for (const key of order) {
      if (backwards) {
        const previousLeft = (right ^ (mix32(left ^ key) % half)) >>> 0;
        right = left;
        left = previousLeft;
      } else {
        const newRight = (left ^ (mix32(right ^ key) % half)) >>> 0;
        left = right;
        right = newRight;
      }
    }
    return left * half + right;
  };
  const reversed = [...keys].reverse();
  const walk = (start: number, order: readonly number[], backwards: boolean): number => {
    if (!Number.isSafeInteger(start) || start < 0 || start >= size)
      throw misuse(RangeError, "ERR_SHUFFLE_SIZE", "permutation index", `0 to ${size - 1}`, start);
    let value = once(start, order, backwards);
    while (value >= size) value = once(value, order, backwards);
    return value;
  };
  return {
    size,
    forward: (index) => walk(index, keys, false),
    inverse: (position) => walk(position, reversed, true),
  };
}
