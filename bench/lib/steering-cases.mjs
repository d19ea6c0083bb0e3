// SPDX-License-Identifier: Apache-2.0
// Programs of every kind for measuring what they cost: one operation at each of a model's layers, with
// vectors of their own for each program and layer. Weak, so that text stays text; never so weak that the
// compiler could leave the operation out. Made before the clock starts.
import { seeded } from "./paired.mjs";

const RANK = 4;

/** name -> (vectors, layer) => operation. vectors(n) gives n random rows of length 1, other ones each time. */
export const KINDS = {
  add: (v) => ({ op: "add", vector: v(), scale: 0.3 }),
  cap: (v) => ({ op: "cap", vector: v(), min: -0.05, max: 0.05 }),
  ablate: (v) => ({ op: "ablate", vector: v(), scale: 0.9 }),
  replace: (v) => ({ op: "replace", vector: v(), amount: 0.001 }),
  rotate: (v) => ({ op: "rotate", vector: v(), angle: 0.01 }),
  addNorm: (v) => ({ op: "addNorm", vector: v(), scale: 0.01 }),
  swap: (v) => ({ op: "swap", vector: v(), to: v() }),
  subspace: (v) => ({
    op: "subspace",
    vector: orthonormal(Array.from({ length: RANK }, v)),
    push: new Array(RANK).fill(0.02),
    keep: 0.95,
  }),
  "add keeping the norm": (v) => ({ op: "add", vector: v(), scale: 0.3, keepNorm: true }),
  "add gated on its own row": (v) => ({
    ...{ op: "add", vector: v(), scale: 0.3 },
    gate: { direction: v(), threshold: -1e6 },
  }),
  "add gated on an earlier layer": (v, layer) => ({
    ...{ op: "add", vector: v(), scale: 0.3 },
    gate: { layer: Math.max(0, layer - 1), direction: v(), threshold: -1e6 },
  }),
  "add on a schedule": (v) => ({
    ...{ op: "add", vector: v(), scale: 0.3 },
    schedule: [
      [0, 1],
      [256, 0.5],
    ],
  }),
};

/** Cases of whole programs: what stands at a layer. */
export const PROGRAMS = {
  ...Object.fromEntries(Object.entries(KINDS).map(([name, make]) => [name, () => [make]])),
  "add + cap + ablate": () => [KINDS.add, KINDS.cap, KINDS.ablate],
  "a different kind at each layer": (layer) => [Object.values(KINDS)[layer % Object.keys(KINDS).length]],
};

/**
 * `count` different programs of one case at the given layers.
 * @returns [count] programs; every vector in them is another one
 */
export function makePrograms(name, { count, layers, width, seed = 1 }) {
  const random = seeded(seed);
  const vectors = () => unit(width, random);
  return Array.from({ length: count }, () =>
    layers.flatMap((layer) => PROGRAMS[name](layer).map((make) => ({ layer, ...make(vectors, layer) }))),
  );
}

function unit(width, random) {
  const out = Float32Array.from({ length: width }, () => random() + random() + random() - 1.5);
  return scaled(out, 1 / Math.hypot(...out));
}

const scaled = (vector, factor) => vector.map((value) => value * factor);

/** Gram-Schmidt, twice: rows orthonormal to float32's precision. */
function orthonormal(rows) {
  const out = [];
  for (const row of rows) {
    const next = Float64Array.from(row);
    for (let pass = 0; pass < 2; pass++) {
      for (const other of out) {
        const along = other.reduce((sum, value, i) => sum + value * next[i], 0);
        for (let i = 0; i < next.length; i++) next[i] -= along * other[i];
      }
    }
    out.push(scaled(next, 1 / Math.hypot(...next)));
  }
  return out.map((row) => Float32Array.from(row));
}
