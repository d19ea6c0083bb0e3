// SPDX-License-Identifier: Apache-2.0
// Programs every GPU test runs: each operation, orders that do not commute, scopes, several sites.
import type { SteeringProgram } from "../../src/index.ts";

/** A direction of `width` numbers that depends on `seed` alone; norm 1. */
export function direction(width: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 1) >>> 0;
  const values = Float32Array.from({ length: width }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  });
  const length = Math.hypot(...values);
  return values.map((value) => value / length);
}

export function programs(width: number): { name: string; steering: SteeringProgram }[] {
  const v = direction(width, 1);
  const w = direction(width, 2);
  return [
    { name: "add", steering: [{ layer: 2, vector: v, scale: 4 }] },
    { name: "cap", steering: [{ layer: 1, op: "cap", vector: v, min: -0.05, max: 0.05 }] },
    { name: "ablate", steering: [{ layer: 3, op: "ablate", vector: v, mean: 0.3 }] },
    { name: "replace in part", steering: [{ layer: 2, op: "replace", vector: w, amount: 0.25 }] },
    { name: "keepNorm", steering: [{ layer: 2, vector: v, scale: 6, keepNorm: true }] },
    {
      name: "add, ablate, add again",
      steering: [
        { layer: 2, vector: v, scale: 3 },
        { layer: 2, op: "ablate", vector: v },
        { layer: 2, vector: w, scale: 2 },
      ],
    },
    {
      name: "every layer, generation alone",
      steering: [0, 1, 2, 3, 4].map((layer) => ({
        layer,
        vector: w,
        scale: 1,
        scope: { phase: "generation" as const },
      })),
    },
    { name: "attention block", steering: [{ site: "layers.1.attn", vector: v, scale: 2 }] },
  ];
}
