// SPDX-License-Identifier: Apache-2.0
// What the tests of the engine share: repeatable chance, prompts, programs that do not commute, and the
// bits of an answer.
import type { GenerateResult } from "../../src/model/results.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";

/** A linear congruential generator: the same arrivals in every run. */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export const direction = (seed: number) =>
  Float32Array.from({ length: 64 }, (_, i) => Math.sin(seed * 7 + i * 1.3));

export const tokensOf = (length: number, seed: number) =>
  Int32Array.from({ length }, (_, i) => 3 + ((i * 37 + seed * 101) % 500));

/** Bytes of one cache block of stories260k: 32 positions. */
export const BLOCK_BYTES = 40960;

/** Repeated and non-commuting operations, every scope; some share sites with their neighbours. */
export const PROGRAMS: SteeringProgram[] = [
  [],
  [{ layer: 2, vector: direction(1) }],
  [{ layer: 2, vector: direction(1) }],
  [{ layer: 2, vector: direction(1), scope: { phase: "generation" } }],
  [{ layer: 1, vector: direction(2), scope: { positions: [[40, 60]] } }],
  [
    { layer: 3, vector: direction(3), scale: 0.5 },
    { layer: 3, op: "ablate", vector: direction(4) },
    { layer: 3, vector: direction(3), scale: 0.5 },
  ],
  [
    { layer: 3, op: "ablate", vector: direction(4) },
    { layer: 3, vector: direction(3) },
    { layer: 1, op: "cap", vector: direction(5), min: -0.1, max: 0.1, keepNorm: true },
  ],
  [
    { layer: 2, vector: direction(6), gate: { layer: 0, direction: direction(7), threshold: 0 } },
    {
      layer: 3,
      vector: direction(8),
      gate: { layer: 1, direction: direction(9), threshold: 0, latch: "prompt" },
    },
    {
      layer: 1,
      op: "rotate",
      vector: direction(2),
      angle: 0.3,
      schedule: [
        [0, 1],
        [6, 0.25],
      ],
    },
  ],
];

const bits = (values: Float32Array) => Array.from(new Uint32Array(Float32Array.from(values).buffer));

/** Tokens, and the bits of all that was computed: equality must be exact. */
export const signature = (result: GenerateResult) => ({
  tokens: Array.from(result.tokens),
  logprobs: bits(result.logprobs?.tokens ?? new Float32Array(0)),
  captures: Object.values(result.captures ?? {}).map(({ site, positions, data }) => ({
    site,
    positions: Array.from(positions),
    data: bits(data),
  })),
  probes: Object.entries(result.probes ?? {}).map(([name, { positions, values }]) => ({
    name,
    positions: Array.from(positions),
    values: bits(values),
  })),
});

/** Rows each operation acted on, here or when the cached prefix was computed. */
export const touched = (result: GenerateResult) => result.steering.map((o) => o.rows + o.reusedRows);
