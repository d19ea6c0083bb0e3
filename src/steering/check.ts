// SPDX-License-Identifier: Apache-2.0
// Checks of what a caller hands in: type, range, unknown keys. Everything public goes through these at
// the door, so that nothing behind it has to look twice.

import { describe, misuse } from "../errors.ts";
import { nearest, suggestion } from "./nearest.ts";

/** Rejects keys that are not in `known`, naming the nearest known one (ERR_OPTION_UNKNOWN). */
export function checkKeys(where: string, value: object, known: readonly string[]): void {
  for (const key of Object.keys(value)) {
    if (known.includes(key)) continue;
    const near = nearest(key, known);
    throw Object.assign(new TypeError(`${where}: unknown option "${key}"${suggestion(near)}`), {
      code: "ERR_OPTION_UNKNOWN",
      details: { where, option: key, nearest: near, known: [...known] },
    });
  }
}

/** A plain object, or {} for undefined (ERR_ARGUMENT_TYPE). */
export function checkObject(where: string, value: unknown): Record<string, unknown> {
  if (value === undefined) return {};
  if (typeof value !== "object" || value === null || Array.isArray(value) || ArrayBuffer.isView(value))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "an object of options", value);
  return value as Record<string, unknown>;
}

export interface NumberRange {
  min?: number;
  max?: number;
  integer?: boolean;
  /** The lower bound itself is not allowed. */
  above?: boolean;
}

/** A finite number within the range (ERR_ARGUMENT_TYPE, ERR_ARGUMENT_RANGE). */
export function checkNumber(where: string, value: unknown, range: NumberRange = {}): number {
  const kind = range.integer ? "an integer" : "a finite number";
  const low = range.min === undefined ? "" : ` ${range.above ? "above" : "from"} ${range.min}`;
  const high = range.max === undefined ? "" : ` up to ${range.max}`;
  const expected = `${kind}${low}${high}`;
  if (typeof value !== "number") throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, expected, value);
  const low_ok = range.min === undefined || (range.above ? value > range.min : value >= range.min);
  const fits =
    Number.isFinite(value) &&
    (!range.integer || Number.isSafeInteger(value)) &&
    low_ok &&
    (range.max === undefined || value <= range.max);
  if (!fits) throw misuse(RangeError, "ERR_ARGUMENT_RANGE", where, expected, value);
  return value;
}

export function checkString(where: string, value: unknown): string {
  if (typeof value !== "string") throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "a string", value);
  return value;
}

export function checkBoolean(where: string, value: unknown): boolean {
  if (typeof value !== "boolean") throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "true or false", value);
  return value;
}

/** One of a list of words; the nearest is named (ERR_ARGUMENT_TYPE). */
export function checkOneOf<T extends string>(where: string, value: unknown, words: readonly T[]): T {
  if (typeof value === "string" && (words as readonly string[]).includes(value)) return value as T;
  const near = typeof value === "string" ? nearest(value, words) : [];
  const list = words.map((w) => `"${w}"`).join(", ");
  throw Object.assign(
    new TypeError(`${where}: expected one of ${list}, got ${describe(value)}${suggestion(near)}`),
    { code: "ERR_ARGUMENT_TYPE", details: { where, expected: [...words], got: describe(value) } },
  );
}

/** Token ids as Int32Array, each within the vocabulary (ERR_ARGUMENT_TYPE, ERR_TOKEN_RANGE). */
export function checkTokenIds(where: string, value: unknown, vocabSize: number): Int32Array {
  const list = isNumberList(value);
  if (!list) throw misuse(TypeError, "ERR_ARGUMENT_TYPE", where, "token ids (Int32Array or numbers)", value);
  const ids = new Int32Array(list.length);
  for (let i = 0; i < list.length; i++) {
    const id = list[i];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabSize)
      throw misuse(
        RangeError,
        "ERR_TOKEN_RANGE",
        `${where}[${i}]`,
        `a token id from 0 up to ${vocabSize - 1}`,
        id,
      );
    ids[i] = id;
  }
  return ids;
}

/** The value as a list of numbers, or undefined when it is no array or typed array. */
export function isNumberList(value: unknown): ArrayLike<number> | undefined {
  if (Array.isArray(value)) return value;
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return value as unknown as ArrayLike<number>;
  return undefined;
}
