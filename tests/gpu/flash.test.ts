// SPDX-License-Identifier: Apache-2.0
// Prompt chunks by libtorch's flash attention against our own kernel: the same prompts, the same programs, with
// both loaded side by side. Decides whether `flashAttention` may ever be on by itself.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { convert } from "../../src/model/convert.ts";
import { deviation, expectClose } from "./compare.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { programs } from "./programs.ts";

const reason = whyNoGpu();
const WIDTH = 64;
const WINDOWED = fileURLToPath(new URL("../../../shared/golden/decoders/mistral-sliding", import.meta.url));

/** Ids of a prompt; every vocabulary here has 199 at least. */
const prompt = (length: number, seed: number) => ({
  tokens: Array.from({ length }, (_, i) => (i === 0 ? 1 : 3 + ((i * 37 + seed * 101) % 190))),
});

// Queries and softmax weights are rounded to 16 bits on the library's way, not on ours.
const ALLOWED = { bfloat16: 0.15, float16: 0.02 } as const;

for (const dtype of ["bfloat16", "float16"] as const) {
  describe.skipIf(reason !== null)(`flash attention equals our kernel, ${dtype}${skipNote(reason)}`, () => {
    let ours: SteerModel;
    let library: SteerModel;
    beforeAll(async () => {
      ours = await SteerModel.load("stories260k", { device: GPU, dtype });
      library = await SteerModel.load("stories260k", { device: GPU, dtype, flashAttention: "on" });
    });
    afterAll(async () => {
      await library?.dispose();
      await ours?.dispose();
    });

    for (const { name, steering } of [{ name: "no program", steering: [] }, ...programs(WIDTH)]) {
      it(`logits and hidden states of 300 tokens: ${name}`, async () => {
        const options = { steering, logits: "all" as const, capture: { sites: [0, 2, 4] } };
        const before = library.stats().flashLayers;
        const want = await ours.forward(prompt(300, 1), options);
        const got = await library.forward(prompt(300, 1), options);
        expect(library.stats().flashLayers - before).toBe(5);
        expect(ours.stats().flashLayers).toBe(0);
        expectClose(`${dtype}, ${name}, logits`, got.logits, want.logits, ALLOWED[dtype]);
        expect(deviation(got.logits, want.logits).cosine).toBeGreaterThan(0.9999);
        for (const [site, { data }] of Object.entries(want.captures)) {
          expectClose(
            `${name}, ${site}`,
            got.captures[site]?.data ?? new Float32Array(),
            data,
            ALLOWED[dtype],
          );
        }
      });
    }

    it("several prompts in one step, lone rows between them, chunks behind a cached prefix", async () => {
      const options = { steering: [], logits: "all" as const };
      const ask = (model: SteerModel) =>
        Promise.all([
          model.generate(prompt(20, 9), { maxTokens: 40, temperature: 0 }),
          ...[70, 5, 111, 200].map((length, i) => model.forward(prompt(length, i), options)),
        ]);
      const [, ...want] = await ask(ours);
      const [, ...got] = await ask(library);
      for (const [i, each] of want.entries()) {
        const logits = got[i]?.logits ?? new Float32Array();
        expectClose(`${dtype}, prompt ${i}`, logits, each.logits, ALLOWED[dtype]);
      }
      // The same first 96 tokens again: the chunk begins in the middle of its context.
      const after = { tokens: [...prompt(200, 3).tokens.slice(0, 96), ...prompt(150, 77).tokens.slice(1)] };
      const last = { logits: "last" as const };
      const before = library.stats().flashLayers;
      const wanted = await ours.forward(after, last);
      const had = await library.forward(after, last);
      expect(library.stats().flashLayers).toBeGreaterThan(before);
      expectClose(`${dtype}, behind a prefix`, had.logits, wanted.logits, ALLOWED[dtype]);
    });
  });
}

describe.skipIf(reason !== null || !existsSync(WINDOWED))(
  `flash attention with a sliding window equals our kernel${skipNote(reason)}`,
  () => {
    it("logits of 300 tokens, in one chunk and in several", async () => {
      const folder = mkdtempSync(join(tmpdir(), "chatspace-windowed-"));
      const archive = join(folder, "windowed.pt");
      try {
        await convert(WINDOWED, archive);
        for (const tokenBudget of [512, 100]) {
          const load = { device: GPU, dtype: "float16", tokenBudget } as const;
          const ours = await SteerModel.load(archive, load);
          const library = await SteerModel.load(archive, { ...load, flashAttention: "on" });
          const length = Math.min(300, ours.info.contextLength - 1);
          const want = await ours.forward(prompt(length, 2), { logits: "all" });
          const got = await library.forward(prompt(length, 2), { logits: "all" });
          expect(library.stats().flashLayers).toBeGreaterThan(0);
          expectClose(`window, budget ${tokenBudget}`, got.logits, want.logits, ALLOWED.float16);
          await library.dispose();
          await ours.dispose();
        }
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  },
);

describe.skipIf(reason !== null)(`flash attention is refused with a reason${skipNote(reason)}`, () => {
  it.each([
    [{ dtype: "float32" }, /float32/],
    [{ dtype: "bfloat16", reproducible: true }, /reproducible/],
  ] as const)("%o", async (load, why) => {
    const model = SteerModel.load("stories260k", { device: GPU, ...load, flashAttention: "on" });
    await expect(model).rejects.toMatchObject({
      code: "ERR_FLASH_ATTENTION",
      message: expect.stringMatching(why),
    });
  });
});
