// SPDX-License-Identifier: Apache-2.0
// Steps replayed from CUDA graphs equal eager ones, token for token, whatever programs ran before: a write
// lost on replay, a stale row or a read of a replayed buffer would show here.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { direction, programs } from "./programs.ts";

const reason = whyNoGpu();
const WIDTH = 64;
const PROMPT = "Once upon a time, there was a";

// In half precision a near tie may fall otherwise when cuBLAS sees padded rows; reproducible products do not.
const CASES = [
  { dtype: "float32", reproducible: false },
  { dtype: "float32", reproducible: true },
  { dtype: "bfloat16", reproducible: true },
] as const;

for (const { dtype, reproducible } of CASES) {
  const title = `CUDA graphs equal eager, ${dtype}${reproducible ? ", reproducible" : ""}${skipNote(reason)}`;
  describe.skipIf(reason !== null)(title, () => {
    let eager: SteerModel;
    let graphs: SteerModel;
    beforeAll(async () => {
      eager = await SteerModel.load("stories260k", { device: GPU, dtype, reproducible });
      graphs = await SteerModel.load("stories260k", {
        ...{ device: GPU, dtype, reproducible, cudaGraphs: "on" },
      });
    });
    afterAll(async () => {
      await graphs?.dispose();
      await eager?.dispose();
    });

    for (const { name, steering } of [{ name: "no program", steering: [] }, ...programs(WIDTH)]) {
      it(`tokens, captures and counters: ${name}`, async () => {
        const options = { steering, maxTokens: 48, temperature: 0, capture: { sites: [2, "final"] } };
        const before = graphs.stats().graphSteps;
        const want = await eager.generate(PROMPT, options);
        const got = await graphs.generate(PROMPT, options);
        expect(graphs.stats().graphSteps).toBeGreaterThan(before);
        expect([...got.tokens]).toEqual([...want.tokens]);
        expect(got.steering.map(({ site, rows }) => ({ site, rows }))).toEqual(
          want.steering.map(({ site, rows }) => ({ site, rows })),
        );
        for (const [site, capture] of Object.entries(want.captures ?? {})) {
          expect(got.captures?.[site]?.positions).toEqual(capture.positions);
          expect(got.captures?.[site]?.data, site).toEqual(capture.data);
        }
      });
    }

    for (const size of [1, 3, 8, 13]) {
      it(`${size} requests with different programs in one batch`, async () => {
        const all = programs(WIDTH);
        const prompts = Array.from({ length: size }, (_, i) => `${PROMPT} ${"very ".repeat(i)}`);
        const options = prompts.map((_, i) => ({
          steering: i % 5 === 4 ? [] : (all[i % all.length]?.steering ?? []),
          maxTokens: 16 + 3 * i, // they leave one by one: the batch passes every padded size
          temperature: 0,
        }));
        const want = await eager.generate(prompts, options);
        const got = await graphs.generate(prompts, options);
        expect(got.map(({ tokens }) => [...tokens])).toEqual(want.map(({ tokens }) => [...tokens]));
        expect(got.map(({ steering }) => steering.map(({ rows }) => rows))).toEqual(
          want.map(({ steering }) => steering.map(({ rows }) => rows)),
        );
      });
    }

    it("defect 11: a program leaves nothing behind for the next one", async () => {
      const options = { maxTokens: 24, temperature: 0 };
      const first = await graphs.generate(PROMPT, options);
      const steered = await graphs.generate(PROMPT, {
        ...options,
        steering: [{ layer: 2, vector: direction(WIDTH, 5), scale: 9 }],
      });
      const again = await graphs.generate(PROMPT, options);
      expect([...again.tokens]).toEqual([...first.tokens]);
      expect(steered.steering[0]?.rows).toBeGreaterThan(0);
    });
  });
}
