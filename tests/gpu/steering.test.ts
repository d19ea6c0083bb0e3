// SPDX-License-Identifier: Apache-2.0
// What steering promises, on CUDA itself: nothing asked for changes nothing, what was asked for is what
// acted, neighbours in a batch do not matter, and a half-precision model loses none of the change.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { expectClose } from "./compare.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { direction, programs } from "./programs.ts";

const reason = whyNoGpu();
const WIDTH = 64;
const PROMPT = "Once upon a time, there was a";

for (const dtype of ["float32", "bfloat16", "float16"] as const) {
  describe.skipIf(reason !== null)(`steering on CUDA, ${dtype}${skipNote(reason)}`, () => {
    let model: SteerModel;
    beforeAll(async () => {
      model = await SteerModel.load("stories260k", { device: GPU, dtype });
    });
    afterAll(() => model?.dispose());

    it("no program, an empty one, scale 0 and an empty scope give the same bits", async () => {
      const plain = await model.forward(PROMPT, { logits: "all" });
      const vector = direction(WIDTH, 3);
      for (const steering of [
        [],
        [{ layer: 2, vector, scale: 0 }],
        [{ layer: 2, vector, scale: 5, scope: { phase: "generation" as const } }],
      ]) {
        const same = await model.forward(PROMPT, { logits: "all", steering });
        expect(same.logits).toEqual(plain.logits);
      }
    });

    it("captured(steered) - captured(plain) is scale times vector", async () => {
      const vector = direction(WIDTH, 4);
      const capture = { sites: [2] };
      const plain = await model.forward(PROMPT, { capture });
      const steered = await model.forward(PROMPT, { capture, steering: [{ layer: 2, vector, scale: 3 }] });
      const before = plain.captures["layers.2"]?.data ?? new Float32Array();
      const after = steered.captures["layers.2"]?.data ?? new Float32Array();
      const moved = after.map((value, i) => value - (before[i] as number));
      const wanted = moved.map((_, i) => 3 * (vector[i % WIDTH] as number));
      expectClose(`${dtype}, change at the site`, moved, wanted, 1e-5);
    });

    it("different programs in one batch act as they do alone", async () => {
      const all = programs(WIDTH);
      const options = all.map(({ steering }) => ({ steering, maxTokens: 24, temperature: 0 }));
      const together = await model.generate(
        all.map(() => PROMPT),
        options,
      );
      for (const [i, { name }] of all.entries()) {
        const alone = await model.generate(PROMPT, options[i]);
        expect(together[i]?.steering, name).toEqual(
          alone.steering.map((applied) => ({
            ...applied,
            meanChangeNorm: expect.closeTo(applied.meanChangeNorm, 2),
          })),
        );
        // Half precision may part at a near tie, as the batch's matrix products round otherwise.
        if (dtype === "float32") expect([...(together[i]?.tokens ?? [])], name).toEqual([...alone.tokens]);
      }
    });

    it("a steered answer leaves the next unsteered one as it was", async () => {
      const options = { maxTokens: 16, temperature: 0 };
      const first = await model.generate(PROMPT, options);
      await model.generate(PROMPT, {
        ...options,
        steering: [{ layer: 2, vector: direction(WIDTH, 5), scale: 9 }],
      });
      const again = await model.generate(PROMPT, options);
      expect([...again.tokens]).toEqual([...first.tokens]);
    });
  });
}
