// SPDX-License-Identifier: Apache-2.0
// Which rows an operation or a capture acts on. Rows are positions of the sequence; the generated row g
// is the one that takes the g-th generated token as input (g = 0 feeds the first generated token back).

import { describe, misuse, SteeringError } from "../errors.ts";
import type { NativeOperation } from "../native/contract.ts";
import { checkKeys, checkNumber, checkObject, checkOneOf, checkTokenIds } from "./check.ts";

export type Phase = "all" | "prompt" | "generation";

/** One position or a range [start, end); negative ones count from the end of the prompt. */
export type Position = number | readonly [start: number, end: number];

export interface Scope {
  /** Default "all"; "generation" when `first` or `after` is given. */
  phase?: Phase;
  /** Positions and half-open ranges; -1 is the last prompt position, [-4, 0] the last four. */
  positions?: readonly Position[];
  /** Only generated rows g < first. */
  first?: number;
  /** Only generated rows g >= after. */
  after?: number;
  /** Only rows whose input token is one of these. */
  tokenIds?: readonly number[] | Int32Array;
}

export interface ScopeContext {
  promptLength: number;
  vocabSize: number;
}

type NativeScope = Pick<
  NativeOperation,
  "phase" | "positions" | "afterGenerated" | "firstGenerated" | "tokenIds"
>;

/** Generated rows are counted in int32 across the boundary. */
const UNBOUNDED = 0x7fffffff;
const PHASES = ["all", "prompt", "generation"] as const;
const KEYS = ["phase", "positions", "first", "after", "tokenIds"] as const;

/** @throws SteeringError ERR_SCOPE for a scope that contradicts itself; TypeError / RangeError. */
export function compileScope(given: unknown, where: string, context: ScopeContext): NativeScope {
  const scope = checkObject(where, given) as Partial<Scope>;
  checkKeys(where, scope, KEYS);
  const after = scope.after === undefined ? 0 : count(`${where}.after`, scope.after);
  const first = scope.first === undefined ? UNBOUNDED : count(`${where}.first`, scope.first);
  const counted = scope.after !== undefined || scope.first !== undefined;
  const phase = compilePhase(scope.phase ?? (counted ? "generation" : "all"), `${where}.phase`);
  if (counted && phase === "prompt")
    throw new SteeringError(
      "ERR_SCOPE",
      `${where}: expected first and after with generated rows, got phase "prompt"`,
      {
        details: { where },
        remedies: ['leave phase out, or use "generation" or "all"'],
      },
    );
  if (after >= first)
    throw new SteeringError(
      "ERR_SCOPE",
      `${where}: expected after < first, got after ${after} and first ${first}`,
      {
        details: { where, after, first },
      },
    );
  return {
    phase,
    positions: compilePositions(scope.positions, `${where}.positions`, context.promptLength),
    afterGenerated: after,
    firstGenerated: first,
    tokenIds:
      scope.tokenIds === undefined
        ? null
        : checkTokenIds(`${where}.tokenIds`, scope.tokenIds, context.vocabSize),
  };
}

export function compilePhase(value: unknown, where: string): Phase {
  return checkOneOf(where, value, PHASES);
}

function count(where: string, value: unknown): number {
  return checkNumber(where, value, { integer: true, min: 0, max: UNBOUNDED });
}

/** Pairs [start, end) of absolute positions, flat; null for all. */
export function compilePositions(given: unknown, where: string, promptLength: number): Int32Array | null {
  if (given === undefined || given === null) return null;
  if (!Array.isArray(given))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "an array of positions or [start, end) pairs", given);
  const pairs: number[] = [];
  given.forEach((entry, index) => {
    const at = `${where}[${index}]`;
    if (typeof entry === "number") {
      const start = absolute(entry, at, promptLength);
      pairs.push(start, start + 1);
    } else if (Array.isArray(entry) && entry.length === 2) {
      const start = absolute(entry[0], at, promptLength);
      // The end of a range from the end is open at 0: [-4, 0] are the last four of the prompt.
      const end =
        start >= 0 && entry[0] < 0 && entry[1] === 0 ? promptLength : absolute(entry[1], at, promptLength);
      if (end < start)
        throw new SteeringError("ERR_SCOPE", `${at}: expected start <= end, got [${entry[0]}, ${entry[1]})`, {
          details: { where: at, start, end },
        });
      pairs.push(start, end);
    } else {
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", at, "a position or a [start, end) pair", entry);
    }
  });
  return Int32Array.from(pairs);
}

function absolute(value: unknown, where: string, promptLength: number): number {
  const position = checkNumber(where, value, { integer: true, max: UNBOUNDED - 1 });
  const index = position < 0 ? promptLength + position : position;
  if (index >= 0) return index;
  throw new SteeringError(
    "ERR_SCOPE",
    `${where}: expected a position within the prompt of ${promptLength} tokens, got ${describe(position)}`,
    { details: { where, promptLength, got: position } },
  );
}
