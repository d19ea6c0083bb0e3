// SPDX-License-Identifier: Apache-2.0
// Requests with equal programs share one compiled program: what must not be shared with it (counters, latches,
// the end), which programs are not equal, and that an answer is the one a request has alone, bit for bit.
// Every field of a program against every other: native/tests/program_table_test.cc.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SteerModel } from "../../src/model/steer-model.ts";
import type { SteeringProgram } from "../../src/steering/program.ts";
import { direction, PROGRAMS, signature, tokensOf, touched } from "./engine-world.ts";

let model: SteerModel;
beforeAll(async () => {
  model = await SteerModel.load("stories260k", { device: "cpu", tokenBudget: 64, maxBatch: 40 });
});
afterAll(() => model.dispose());

const base = { temperature: 0, ignoreEos: true, reusePrefix: false, logprobs: 0 } as const;
/** Requests that stay until they are ended: one a program. */
async function held(programs: readonly SteeringProgram[]) {
  const control = new AbortController();
  const answers = programs.map((steering, i) =>
    model.generate(tokensOf(4, i), { ...base, maxTokens: 480, steering, signal: control.signal }),
  );
  const settled = Promise.allSettled(answers);
  await expect.poll(() => model.stats().running, { interval: 2 }).toBe(programs.length);
  const { programs: live } = model.stats();
  control.abort();
  await settled;
  await expect.poll(() => model.stats().running, { interval: 2 }).toBe(0);
  expect(model.stats().programs).toBe(0);
  return live;
}
const plain: SteeringProgram = [{ layer: 2, vector: direction(1), scale: 0.5 }];
const nudged = direction(1);
nudged[63]! += 2 ** -20;

describe("the programs that are held", () => {
  test("are one for requests whose programs are equal in value, not in identity", async () => {
    const copies = Array.from({ length: 12 }, () => structuredClone(plain) as SteeringProgram);
    expect(await held(copies)).toBe(1);
  });

  const different: Record<string, SteeringProgram> = {
    "one float": [{ layer: 2, vector: nudged, scale: 0.5 }],
    scale: [{ layer: 2, vector: direction(1), scale: 0.5000001 }],
    site: [{ layer: 3, vector: direction(1), scale: 0.5 }],
    scope: [{ layer: 2, vector: direction(1), scale: 0.5, scope: { phase: "generation" } }],
    gate: [
      { layer: 2, vector: direction(1), scale: 0.5, gate: { direction: direction(1), threshold: -100 } },
    ],
    "an operation given twice": [...plain, ...plain],
  };
  for (const [what, program] of Object.entries(different))
    test(`are two where they differ in ${what}`, async () => {
      expect(await held([plain, program])).toBe(2);
    });

  test("are two where the order differs", async () => {
    const [a, b] = [plain[0]!, { layer: 2, op: "ablate", vector: direction(2) } as const];
    expect(
      await held([
        [a, b],
        [b, a],
        [a, b],
      ]),
    ).toBe(2);
  });

  test("are none of requests without one", async () => {
    expect(await held([[], [], []])).toBe(0);
  });
});

test("sharers count for themselves and answer as alone, steered by different rows of one program", async () => {
  const program: SteeringProgram = [
    { layer: 2, vector: direction(1), scope: { positions: [[3, 60]] } },
    {
      layer: 3,
      vector: direction(3),
      gate: { layer: 1, direction: direction(9), threshold: 0, latch: "prompt" },
    },
    { layer: 1, op: "cap", vector: direction(5), min: -0.1, max: 0.1 },
  ];
  const run = (i: number) =>
    model.generate(tokensOf(5 + 3 * i, i), {
      ...{ ...base, maxTokens: 6 + i, steering: structuredClone(program) as SteeringProgram },
      capture: { sites: ["layers.3"] },
    });
  const alone = [];
  for (let i = 0; i < 12; i++) alone.push(await run(i));
  const together = await Promise.all(alone.map((_, i) => run(i)));
  for (const [i, answer] of together.entries()) {
    expect(signature(answer)).toEqual(signature(alone[i]!));
    expect(touched(answer)).toEqual(touched(alone[i]!));
    expect(answer.steering.map((o) => o.meanChangeNorm)).toEqual(
      alone[i]!.steering.map((o) => o.meanChangeNorm),
    );
  }
  // The counters are worth comparing: they differ, and so does what the latch decided.
  expect(new Set(together.map((each) => touched(each)[0])).size).toBe(12);
  expect(new Set(together.map((each) => touched(each)[1]! > 0)).size).toBe(2);
});

test("one sharer's end, by abort or by its last token, leaves the others' program as it was", async () => {
  for (const steering of PROGRAMS.slice(1)) {
    const options = { ...base, maxTokens: 60, steering };
    const alone = signature(await model.generate(tokensOf(20, 9), options));
    const control = new AbortController();
    const first = model.generate(tokensOf(9, 1), { ...options, maxTokens: 400, signal: control.signal });
    first.catch(() => undefined);
    const short = model.generate(tokensOf(7, 2), { ...options, maxTokens: 2 });
    const rest = model.generate(tokensOf(20, 9), options);
    await short;
    control.abort();
    // New programs come where the old one's memory was, had it been freed.
    const others = Array.from({ length: 10 }, (_, i) =>
      model.generate(tokensOf(8, i), {
        ...{ ...base, maxTokens: 12 },
        steering: [0, 1, 2, 3].map((layer) => ({ layer, vector: direction(100 + 4 * i + layer), scale: 2 })),
      }),
    );
    await Promise.all(others);
    expect(signature(await rest)).toEqual(alone);
  }
  expect(model.stats().programs).toBe(0);
});
