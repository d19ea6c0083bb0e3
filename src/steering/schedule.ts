// SPDX-License-Identifier: Apache-2.0
// How the strength of an operation moves over the generated tokens: straight lines between points
// (generated index, factor). The factor multiplies the change that the operation makes.

import { misuse } from "../errors.ts";
import { checkKeys, checkNumber, checkObject, isNumberList } from "./check.ts";

/**
 * Points [generated index, factor], ascending by index; level before the first and after the last. Prompt
 * rows take the factor of index 0 (a scope keeps them out).
 */
export type StrengthSchedule = readonly (readonly [index: number, factor: number])[];

/** The same factor everywhere. */
export function constantStrength(factor: number): StrengthSchedule {
  return [[0, checkNumber("constantStrength", factor)]];
}

/** From one factor to another over a number of generated tokens, then level. */
export function linearStrength(options: { from: number; to: number; tokens: number }): StrengthSchedule {
  checkKeys("linearStrength", checkObject("linearStrength", options), ["from", "to", "tokens"]);
  const tokens = checkNumber("linearStrength.tokens", options.tokens, { integer: true, min: 1 });
  return [
    [0, checkNumber("linearStrength.from", options.from)],
    [tokens, checkNumber("linearStrength.to", options.to)],
  ];
}

/**
 * Exponential decay from `from` (default 1) towards 0: half of it is left after `halfLife` generated
 * tokens. The curve is followed at every eighth of a half-life, to within 0.1 % of `from`, and ends at 0
 * after ten half-lives.
 */
export function decayingStrength(options: { halfLife: number; from?: number }): StrengthSchedule {
  checkKeys("decayingStrength", checkObject("decayingStrength", options), ["halfLife", "from"]);
  const halfLife = checkNumber("decayingStrength.halfLife", options.halfLife, { min: 0, above: true });
  const from = options.from === undefined ? 1 : checkNumber("decayingStrength.from", options.from);
  const steps = 80;
  return Array.from({ length: steps + 1 }, (_, step): [number, number] => [
    (step * halfLife) / 8,
    step === steps ? 0 : from * 2 ** (-step / 8),
  ]);
}

/** Pairs (index, factor), flat; null for strength 1 everywhere (ERR_ARGUMENT_TYPE, ERR_ARGUMENT_RANGE). */
export function compileSchedule(given: unknown, where: string): Float32Array | null {
  if (given === undefined) return null;
  if (!Array.isArray(given) || given.length === 0)
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "points [generated index, factor]", given);
  const pairs: number[] = [];
  given.forEach((point: unknown, i) => {
    const at = `${where}[${i}]`;
    const numbers = isNumberList(point);
    if (numbers?.length !== 2)
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", at, "[generated index, factor]", point);
    const index = checkNumber(`${at}[0]`, numbers[0], { min: 0 });
    if (i > 0 && Math.fround(index) <= Math.fround(pairs[2 * i - 2]!))
      throw misuse(RangeError, "ERR_ARGUMENT_RANGE", at, `an index above ${pairs[2 * i - 2]}`, index);
    pairs.push(index, checkNumber(`${at}[1]`, numbers[1]));
  });
  return Float32Array.from(pairs);
}
