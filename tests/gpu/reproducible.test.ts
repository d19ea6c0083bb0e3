// SPDX-License-Identifier: Apache-2.0
// reproducible: true on CUDA: the bits of a request's logits are those it has alone, whoever stands beside it
// and however its prompt is cut into chunks.
import { describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { direction, programs } from "./programs.ts";

const reason = whyNoGpu();
const CASES = [
  { dtype: "float32", quantize: "none" },
  { dtype: "bfloat16", quantize: "none" },
  { dtype: "bfloat16", quantize: "int8" },
  { dtype: "float32", quantize: "int4" },
] as const;

const prompt = (length: number, seed: number) => ({
  tokens: Array.from({ length }, (_, i) => (i === 0 ? 1 : 260 + ((i * 37 + seed * 11) % 200))),
});

for (const { dtype, quantize } of CASES) {
  describe.skipIf(reason !== null)(`reproducible, ${dtype}, ${quantize}${skipNote(reason)}`, () => {
    it("a prompt alone, among others and in chunks of any size", async () => {
      const steering = [{ layer: 2, vector: direction(64, 6), scale: 2 }];
      let alone: Float32Array | undefined;
      for (const tokenBudget of [512, 33, 7, 1]) {
        const options = { device: GPU, dtype, quantize, reproducible: true, tokenBudget };
        const model = await SteerModel.load("stories260k", options);
        const wanted = { logits: "all" as const, steering };
        const [first, ...others] = await Promise.all([
          model.forward(prompt(90, 1), wanted),
          ...[2, 3, 4].map((seed) => model.forward(prompt(20 * seed + 1, seed), { logits: "all" as const })),
        ]);
        expect(others).toHaveLength(3);
        alone ??= (await model.forward(prompt(90, 1), wanted)).logits;
        expect(first?.logits, `token budget ${tokenBudget}`).toEqual(alone);
        await model.dispose();
      }
    });

    it("sampled tokens of a request do not change with its neighbours", async () => {
      const model = await SteerModel.load("stories260k", {
        ...{ device: GPU, dtype, quantize, reproducible: true },
      });
      const all = programs(64);
      const options = all.map(({ steering }, i) => ({ steering, maxTokens: 24, temperature: 0.9, seed: i }));
      const prompts = all.map((_, i) => prompt(5 + 7 * i, i));
      const together = await model.generate(prompts, options);
      for (const [i, { name }] of all.entries()) {
        const alone = await model.generate(prompts[i] ?? prompt(5, 0), options[i]);
        expect([...(together[i]?.tokens ?? [])], name).toEqual([...alone.tokens]);
      }
      await model.dispose();
    });
  });
}
