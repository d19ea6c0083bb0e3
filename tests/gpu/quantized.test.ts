// SPDX-License-Identifier: Apache-2.0
// Block-quantised matrices on CUDA against the CPU's on the same blocks: few rows (read directly) and many
// (unpacked for cuBLAS).
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { expectClose } from "./compare.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { programs } from "./programs.ts";

const reason = whyNoGpu();

for (const quantize of ["int8", "int4"] as const) {
  describe.skipIf(reason !== null)(`${quantize} on CUDA equals the CPU${skipNote(reason)}`, () => {
    let cpu: SteerModel;
    let gpu: SteerModel;
    beforeAll(async () => {
      cpu = await SteerModel.load("stories260k", {
        device: "cpu",
        dtype: "float32",
        quantize,
        activations: "float32",
      });
      gpu = await SteerModel.load("stories260k", { device: GPU, dtype: "float32", quantize });
    });
    afterAll(async () => {
      await gpu?.dispose();
      await cpu?.dispose();
    });

    it("takes as much memory as on the CPU", () => {
      expect(gpu.info.quantize).toBe(quantize);
      expect(gpu.stats().weightBytes).toBeLessThan(1.1 * cpu.stats().weightBytes);
    });

    for (const rows of [1, 2, 4, 7, 16, 17, 200]) {
      it(`logits of ${rows} rows`, async () => {
        const tokens = Array.from({ length: rows }, (_, i) => (i === 0 ? 1 : 260 + ((i * 37) % 200)));
        const [want, got] = await Promise.all([
          cpu.forward({ tokens }, { logits: "all" }),
          gpu.forward({ tokens }, { logits: "all" }),
        ]);
        expectClose(`${quantize}, ${rows} rows, logits`, got.logits, want.logits, 1e-4);
      });
    }

    for (const { name, steering } of [{ name: "no program", steering: [] }, ...programs(64)]) {
      it(`48 greedy tokens: ${name}`, async () => {
        const options = { steering, maxTokens: 48, temperature: 0 };
        const prompt = "Once upon a time, there was a";
        const [want, got] = await Promise.all([cpu.generate(prompt, options), gpu.generate(prompt, options)]);
        expect([...got.tokens]).toEqual([...want.tokens]);
      });
    }
  });
}

describe.skipIf(reason !== null)(`blocks with 16-bit activations on CUDA${skipNote(reason)}`, () => {
  for (const dtype of ["bfloat16", "float16"] as const) {
    it(`int8, ${dtype}: logits follow the float32 ones`, async () => {
      const exact = await SteerModel.load("stories260k", { device: GPU, dtype: "float32", quantize: "int8" });
      const half = await SteerModel.load("stories260k", { device: GPU, dtype, quantize: "int8" });
      const prompt = "Once upon a time, there was a little girl";
      const want = await exact.forward(prompt, { logits: "all" });
      const got = await half.forward(prompt, { logits: "all" });
      expectClose(`int8 ${dtype}, logits`, got.logits, want.logits, 0.25);
      await exact.dispose();
      await half.dispose();
    });
  }
});
