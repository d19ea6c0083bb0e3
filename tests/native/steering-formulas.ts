// SPDX-License-Identifier: Apache-2.0
// The formulas of docs/steering.md in float64, for tests against the engine.

export type Row = readonly number[];

export const wave = (seed: number, width = 64) =>
  Float32Array.from({ length: width }, (_, i) => Math.sin(seed + i * (1.1 + seed / 7)));
export const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};
export const length = (a: ArrayLike<number>) => Math.sqrt(dot(a, a));
export const unit = (a: ArrayLike<number>) => Array.from(a, (x) => x / length(a));
export const plus = (a: Row, factor: number, b: ArrayLike<number>) => a.map((x, i) => x + factor * b[i]!);

/** Orthonormal rows by Gram-Schmidt. */
export function orthonormal(rows: readonly ArrayLike<number>[]): number[][] {
  const basis: number[][] = [];
  for (const row of rows) {
    let rest = Array.from(row);
    for (const b of basis) rest = plus(rest, -dot(rest, b), b);
    basis.push(unit(rest));
  }
  return basis;
}

export interface Formula {
  op: string;
  vector: ArrayLike<number> | readonly ArrayLike<number>[];
  [key: string]: unknown;
}

/** One row after one operation, its change times f. */
export function steered(h: Row, o: Formula, f = 1): number[] {
  const out = change(h, o, f);
  return o.keepNorm === true ? out.map((x) => (x * length(h)) / length(out)) : out;
}

function change(h: Row, o: Formula, f: number): number[] {
  const number = (key: string, otherwise: number) => (o[key] as number | undefined) ?? otherwise;
  const v = Array.from(o.vector as ArrayLike<number>);
  const size = length(h);
  if (o.op === "add") return plus(h, f * number("scale", 1), v);
  if (o.op === "replace") {
    const amount = f * number("amount", 1);
    return h.map((x, i) => (1 - amount) * x + amount * v[i]!);
  }
  if (o.op === "subspace") {
    const [push, keep, mean] = [o.push ?? [], o.keep ?? [], o.mean ?? []] as number[][];
    const moves = (o.vector as readonly ArrayLike<number>[]).map(
      (b, r) => (push![r] ?? 0) + ((keep![r] ?? 1) - 1) * (dot(h, b) - (mean![r] ?? 0)),
    );
    return moves.reduce((row, move, r) => plus(row, f * move, (o.vector as ArrayLike<number>[])[r]!), [...h]);
  }
  const u = unit(v);
  const p = dot(h, u);
  if (o.op === "cap") {
    const bounded = Math.min(Math.max(p, number("min", -Infinity)), number("max", Infinity));
    return plus(h, f * (bounded - p), u);
  }
  if (o.op === "ablate") return plus(h, f * (number("scale", 0) - 1) * (p - number("mean", 0)), u);
  if (o.op === "addNorm") {
    const limit = number("limit", Infinity);
    return plus(h, Math.min(Math.max(f * number("scale", 1), -limit), limit) * size, u);
  }
  if (o.op === "swap") return plus(plus(h, -f * p, u), f * p, unit(o.to as ArrayLike<number>));
  if (o.op !== "rotate") throw new Error(`no formula for ${o.op}`);
  const beside = unit(plus(h, -p, u));
  const angle = Math.acos(p / size) - f * number("angle", 0);
  return u.map((x, i) => size * (Math.cos(angle) * x + Math.sin(angle) * beside[i]!));
}
