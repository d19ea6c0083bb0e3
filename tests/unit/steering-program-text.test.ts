// SPDX-License-Identifier: Apache-2.0
// The text form of programs: what it means, that it comes back the same, and what is refused where.
import { describe, expect, test } from "vitest";
import {
  formatProgram,
  type NamedOperation,
  parseProgram,
  resolveProgram,
} from "../../src/steering/program-text.ts";

const MEANINGS: [text: string, program: Partial<NamedOperation>[]][] = [
  ["", []],
  ["happy", [{ op: "add", vector: "happy", sites: [] }]],
  [
    "0.5 happy@layers.12-14 + cap(formal, 0..2) @generation @after:4",
    [
      { op: "add", vector: "happy", scale: 0.5, sites: ["layers.12", "layers.13", "layers.14"] },
      { op: "cap", vector: "formal", min: 0, max: 2, sites: [], scope: { phase: "generation", after: 4 } },
    ],
  ],
  ["happy - 0.5 formal", [{ op: "add" }, { op: "add", vector: "formal", scale: -0.5 }]],
  ["-1.5e-3 * happy", [{ scale: -0.0015 }]],
  ["cap(x, ..2)", [{ op: "cap", max: 2 }]],
  ["cap(x, -1.5..)", [{ op: "cap", min: -1.5 }]],
  ["ablate(x)@layers.3.mlp", [{ op: "ablate", sites: ["layers.3.mlp"] }]],
  ["ablate(x, 0.2, mean 0.5)", [{ op: "ablate", scale: 0.2, mean: 0.5 }]],
  ["rotate(x, 180deg)", [{ op: "rotate", angle: Math.PI }]],
  [
    "addNorm(x, 0.2, limit 0.5)@embed,final",
    [{ op: "addNorm", scale: 0.2, limit: 0.5, sites: ["embed", "final"] }],
  ],
  ['swap(happy, "./my file.npy")@layers.-1', [{ op: "swap", to: "./my file.npy", sites: ["layers.-1"] }]],
  ["replace(x, 0.3) @keepnorm", [{ op: "replace", amount: 0.3, keepNorm: true }]],
  [
    "x @positions:0,-8..0 @tokens:13,14 @first:5",
    [{ scope: { positions: [0, [-8, 0]], tokenIds: [13, 14], first: 5 } }],
  ],
  [
    "x @strength:0=1,20=0",
    [
      {
        schedule: [
          [0, 1],
          [20, 0],
        ],
      },
    ],
  ],
  [
    "x @when(cos angry@layers.10 > 0.2)",
    [{ gate: { direction: "angry", site: "layers.10", threshold: 0.2, above: true, cosine: true } }],
  ],
  [
    "x @when(angry < -3, prompt)",
    [{ gate: { direction: "angry", threshold: -3, above: false, cosine: false, latch: "prompt" } }],
  ],
  ["happy-sad@model.layers.3.mlp", [{ vector: "happy-sad", sites: ["model.layers.3.mlp"] }]],
];

describe("meaning", () => {
  test.each(MEANINGS)("%s", (text, program) => {
    const parsed = parseProgram(text);
    expect(parsed).toMatchObject(program);
    expect(parsed).toHaveLength(program.length);
    expect(parseProgram(formatProgram(parsed))).toEqual(parsed);
    expect(formatProgram(parseProgram(formatProgram(parsed)))).toBe(formatProgram(parsed));
  });
});

test("random programs come back the same", () => {
  let state = 7;
  const random = (n: number) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * n);
  };
  const number = () => (random(2000) - 1000) / 10 ** random(5);
  const name = () =>
    ["happy", "happy-sad", "./a b.npy", "cap", "cos", "v_1", "dir/file.gguf", 'q"uote\\'][random(8)]!;
  const maybe = <T extends object>(part: () => T) => (random(2) === 0 ? part() : {});
  const head = (): Omit<NamedOperation, "sites" | "vector"> =>
    [
      () => ({ op: "add" as const, ...maybe(() => ({ scale: number() })) }),
      () => ({ op: "cap" as const, min: number(), ...maybe(() => ({ max: number() })) }),
      () => ({
        op: "ablate" as const,
        ...maybe(() => ({ scale: number() })),
        ...maybe(() => ({ mean: number() })),
      }),
      () => ({ op: "replace" as const, ...maybe(() => ({ amount: number() })) }),
      () => ({ op: "rotate" as const, angle: number() }),
      () => ({
        op: "addNorm" as const,
        ...maybe(() => ({ scale: number() })),
        ...maybe(() => ({ limit: number() })),
      }),
      () => ({ op: "swap" as const, to: name() }),
    ][random(7)]!();
  for (let i = 0; i < 2000; i++) {
    const program = Array.from({ length: random(4) }, (): NamedOperation => {
      const sites = Array.from(
        { length: random(5) },
        () => ["embed", "final", "layers.3", "layers.4", "layers.5", "layers.4.mlp", "a.b.c"][random(7)]!,
      );
      const scope = {
        ...maybe(() => ({ phase: "prompt" as const })),
        ...maybe(() => ({ after: random(9) })),
      };
      const gate = {
        direction: name(),
        threshold: number(),
        above: random(2) === 0,
        cosine: random(2) === 0,
      };
      return {
        ...{ ...head(), vector: name(), sites },
        ...(Object.keys(scope).length > 0 ? { scope } : {}),
        ...maybe(() => ({ keepNorm: true as const })),
        ...maybe(() => ({
          schedule: [
            [0, number()],
            [7, number()],
          ] as [number, number][],
        })),
        ...maybe(() => ({
          gate: {
            ...gate,
            ...maybe(() => ({ site: "layers.2.attn" })),
            ...maybe(() => ({ latch: "prompt" as const })),
          },
        })),
      };
    });
    expect(parseProgram(formatProgram(program)), formatProgram(program)).toEqual(program);
  }
});

test.each([
  ["0.5", /at 3: expected the name of a vector, got the end/],
  ["happy sad", /at 6: expected "\+" or "-"/],
  ["happy +", /the name of a vector|between spaces/],
  ["cap(x)", /min\.\.max/],
  ["cap(x, 1)", /min\.\.max/],
  ["rotate(x, limit 3)", /a number/],
  ["x @generatoin", /a site .* or a word/],
  ["x @when(angry 3)", /"<" or ">"/],
  ["x @layers.9-3", /ascending/],
  ["happy - cap(x, 0..1)", /a vector after a minus/],
])("refused: %s", (text, says) => {
  expect(() => parseProgram(text)).toThrow(
    expect.objectContaining({ code: "ERR_PROGRAM_TEXT", message: expect.stringMatching(says) }),
  );
});

test("names become vectors, sites become operations", async () => {
  const program = await resolveProgram(
    parseProgram("0.5 happy@layers.12-13 + ablate(angry) @when(calm > 1)"),
  );
  expect(program.map(({ op, site, scale }) => ({ op, site, scale }))).toEqual([
    { op: "add", site: "layers.12", scale: 0.5 },
    { op: "add", site: "layers.13", scale: 0.5 },
    { op: "ablate", site: undefined, scale: undefined },
  ]);
  await expect(resolveProgram(parseProgram("hapy"))).rejects.toMatchObject({ code: "ERR_VECTOR_UNKNOWN" });
});
