// SPDX-License-Identifier: Apache-2.0
// The numbers of each kind of operation: which it reads, their defaults and limits.

import { misuse, SteeringError } from "../errors.ts";
import type { NativeOperation, NativeOpKind } from "../native/contract.ts";
import { checkBoolean, checkNumber } from "./check.ts";

/** Numbers as a caller gives them. */
export interface OperationNumbers {
  scale?: number;
  min?: number;
  max?: number;
  mean?: number | readonly number[];
  amount?: number;
  angle?: number;
  limit?: number;
  push?: readonly number[];
  keep?: number | readonly number[];
  keepNorm?: boolean;
}

const NAMES = ["scale", "min", "max", "mean", "amount", "angle", "limit", "push", "keep", "to"] as const;

/** Which of the names each kind reads; giving another is a mistake worth naming. */
const READS: Record<NativeOpKind, readonly string[]> = {
  add: ["scale"],
  cap: ["min", "max"],
  ablate: ["scale", "mean"],
  replace: ["amount"],
  rotate: ["angle"],
  addNorm: ["scale", "limit"],
  swap: ["to"],
  subspace: ["push", "keep", "mean"],
};

type NativeNumbers = Pick<NativeOperation, "scale" | "min" | "max" | "mean" | "amount" | "keepNorm">;

export function rejectForeignNumbers(given: object, op: NativeOpKind, where: string): void {
  for (const key of NAMES) {
    if ((given as Record<string, unknown>)[key] === undefined || READS[op].includes(key)) continue;
    throw Object.assign(new TypeError(`${where}: "${op}" takes ${READS[op].join(" and ")}, got ${key}`), {
      code: "ERR_OPTION_UNKNOWN",
      details: { where, op, option: key, known: READS[op] },
    });
  }
}

/** @throws SteeringError ERR_CAP_BOUNDS, ERR_CAP_NO_BOUND; TypeError / RangeError. */
export function readNumbers(given: OperationNumbers, op: NativeOpKind, where: string): NativeNumbers {
  const number = (key: "scale" | "mean" | "amount", otherwise: number) =>
    given[key] === undefined ? otherwise : checkNumber(`${where}.${key}`, given[key]);
  const keepNorm = given.keepNorm === undefined ? false : checkBoolean(`${where}.keepNorm`, given.keepNorm);
  const bounds = op === "cap" ? capBounds(given, where) : { min: -Infinity, max: Infinity };
  if (op === "addNorm" && given.limit !== undefined)
    bounds.max = checkNumber(`${where}.limit`, given.limit, { min: 0 });
  const numbers = {
    scale: number("scale", op === "ablate" ? 0 : 1),
    ...bounds,
    mean: op === "subspace" ? 0 : number("mean", 0),
    amount: number("amount", 1),
    keepNorm,
  };
  if (op === "rotate") numbers.scale = checkNumber(`${where}.angle`, given.angle);
  return numbers;
}

function capBounds(given: OperationNumbers, where: string): { min: number; max: number } {
  const bound = (key: "min" | "max", open: number) => {
    const value = given[key];
    if (value === undefined || value === null) return open;
    if (typeof value !== "number" || Number.isNaN(value))
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.${key}`, "a number", value);
    return value;
  };
  const [min, max] = [bound("min", -Infinity), bound("max", Infinity)];
  if (min === -Infinity && max === Infinity)
    throw new SteeringError(
      "ERR_CAP_NO_BOUND",
      `${where}: expected "cap" to have min, max or both, got neither`,
      {
        details: { where },
        remedies: ["give the range the projection may keep, for example { min: -1, max: 1 }"],
      },
    );
  // min = +Infinity or max = -Infinity would send every row to infinity.
  if (min > max || min === Infinity || max === -Infinity)
    throw new SteeringError(
      "ERR_CAP_BOUNDS",
      `${where}: expected min <= max, got min ${min} and max ${max}`,
      {
        details: { where, min, max },
      },
    );
  return { min, max };
}
