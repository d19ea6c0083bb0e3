// SPDX-License-Identifier: Apache-2.0
// CUDA against the CPU, which is the oracle: logits, hidden states, steered and not, and greedy tokens.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { expectClose } from "./compare.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { programs } from "./programs.ts";

const reason = whyNoGpu();
const WIDTH = 64;
const PROMPT = "Once upon a time, there was a little girl named Lily. She had a big red ball and";

describe.skipIf(reason !== null)(`float32 on CUDA equals the CPU${skipNote(reason)}`, () => {
  let cpu: SteerModel;
  let gpu: SteerModel;
  beforeAll(async () => {
    cpu = await SteerModel.load("stories260k", { device: "cpu", dtype: "float32" });
    gpu = await SteerModel.load("stories260k", { device: GPU, dtype: "float32" });
  });
  afterAll(async () => {
    await gpu?.dispose();
    await cpu?.dispose();
  });

  for (const { name, steering } of [{ name: "no program", steering: [] }, ...programs(WIDTH)]) {
    it(`logits and hidden states: ${name}`, async () => {
      const options = {
        steering,
        logits: "all" as const,
        capture: { sites: ["embed", 0, 1, 2, 3, 4, "final"] },
      };
      const [want, got] = await Promise.all([cpu.forward(PROMPT, options), gpu.forward(PROMPT, options)]);
      expectClose(`${name}, logits`, got.logits, want.logits, 1e-4);
      for (const [site, capture] of Object.entries(want.captures)) {
        expect(got.captures[site]?.positions).toEqual(capture.positions);
        expectClose(`${name}, ${site}`, got.captures[site]?.data ?? new Float32Array(), capture.data, 1e-4);
      }
      expect(got.steering.map(({ site, rows }) => ({ site, rows }))).toEqual(
        want.steering.map(({ site, rows }) => ({ site, rows })),
      );
      for (const [i, applied] of want.steering.entries())
        expect(got.steering[i]?.meanChangeNorm).toBeCloseTo(applied.meanChangeNorm, 4);
    });

    it(`64 greedy tokens: ${name}`, async () => {
      const options = { steering, maxTokens: 64, temperature: 0 };
      const [want, got] = await Promise.all([cpu.generate(PROMPT, options), gpu.generate(PROMPT, options)]);
      expect([...got.tokens]).toEqual([...want.tokens]);
      expect(got.steering.map(({ rows }) => rows)).toEqual(want.steering.map(({ rows }) => rows));
    });
  }

  it("a prompt of several chunks and cache blocks", async () => {
    const long = Array.from({ length: 300 }, (_, i) => (i === 0 ? 1 : 260 + ((i * 37) % 200)));
    const options = { logits: "all" as const };
    const [want, got] = await Promise.all([
      cpu.forward({ tokens: long }, options),
      gpu.forward({ tokens: long }, options),
    ]);
    expectClose("300 tokens, logits", got.logits, want.logits, 1e-4);
  });
});
