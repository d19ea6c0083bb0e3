// SPDX-License-Identifier: Apache-2.0
// The basis of a subspace operation: orthonormal rows, so that the order of the directions means nothing.

import { misuse, SteeringError } from "../errors.ts";
import { checkNumber, isNumberList } from "./check.ts";
import type { OperationNumbers } from "./operation-numbers.ts";
import { fitted } from "./placement.ts";
import type { Site } from "./sites.ts";
import { dot, finiteVector } from "./vector.ts";

const MAX_RANK = 64;
const TOLERANCE = 1e-4;

/** vector: [rank, width]; second: [3, rank] push, keep, mean. */
export interface CompiledSubspace {
  vector: Float32Array;
  second: Float32Array;
}

/** @throws SteeringError ERR_SUBSPACE_RANK, ERR_SUBSPACE_BASIS, ERR_VECTOR_WIDTH, ERR_VECTOR_NOT_FINITE; TypeError. */
export function compileSubspace(
  given: { vector?: unknown } & OperationNumbers,
  site: Site,
  where: string,
): CompiledSubspace {
  const { vector: rows } = given;
  if (!Array.isArray(rows) || !rows.every((row) => isNumberList(row)))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.vector`, "a list of orthonormal vectors", rows);
  if (rows.length < 1 || rows.length > MAX_RANK)
    throw new SteeringError(
      "ERR_SUBSPACE_RANK",
      `${where}.vector: expected 1 to ${MAX_RANK} directions, got ${rows.length}`,
      { details: { where, most: MAX_RANK, got: rows.length } },
    );
  const basis = rows.map((row, r) =>
    fitted(finiteVector(`${where}.vector[${r}]`, row as ArrayLike<number>), site, `${where}.vector[${r}]`),
  );
  checkOrthonormal(basis, where);
  const vector = new Float32Array(basis.length * site.width);
  basis.forEach((row, r) => {
    vector.set(row, r * site.width);
  });
  const numbers = [
    numbersOf(given.push, 0, basis.length, `${where}.push`),
    numbersOf(given.keep, 1, basis.length, `${where}.keep`),
    numbersOf(given.mean, 0, basis.length, `${where}.mean`),
  ];
  return { vector, second: Float32Array.from(numbers.flat()) };
}

function checkOrthonormal(basis: readonly Float32Array[], where: string): void {
  basis.forEach((a, i) => {
    for (let j = 0; j <= i; j++) {
      const product = dot(a, basis[j]!);
      if (Math.abs(product - (i === j ? 1 : 0)) <= TOLERANCE) continue;
      throw new SteeringError(
        "ERR_SUBSPACE_BASIS",
        `${where}.vector: expected orthonormal rows (to ${TOLERANCE}), got row ${i} . row ${j} = ${product}`,
        {
          details: { where, rows: [i, j], product },
          remedies: ["orthonormalise the rows, by QR for example"],
        },
      );
    }
  });
}

function numbersOf(given: unknown, otherwise: number, rank: number, where: string): number[] {
  if (given === undefined) return new Array<number>(rank).fill(otherwise);
  if (typeof given === "number") return new Array<number>(rank).fill(checkNumber(where, given));
  const list = isNumberList(given);
  if (!list || list.length !== rank)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      where,
      `a number or ${rank} numbers, one for each row`,
      given,
    );
  return Array.from({ length: rank }, (_, r) => checkNumber(`${where}[${r}]`, list[r]));
}
