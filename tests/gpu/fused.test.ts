// SPDX-License-Identifier: Apache-2.0
// Steering, addition and norm in one kernel leave the bits of the two kernels. The flat list of calls makes one of
// them where a norm follows a site; TorchScript's interpreter (CHATSPACE_INTERPRETER=1) always makes two. Eager and
// replayed from graphs, where rows of other programs, unsteered ones and padding stand beside one another.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SteerModel } from "../../src/index.ts";
import { GPU, skipNote, whyNoGpu } from "./device.ts";
import { programs } from "./programs.ts";

const reason = whyNoGpu();
const WIDTH = 64;
const PROMPT = "Once upon a time, there was a";

async function load(options: Parameters<typeof SteerModel.load>[1], interpreter: boolean) {
  const before = process.env.CHATSPACE_INTERPRETER;
  process.env.CHATSPACE_INTERPRETER = interpreter ? "1" : "0";
  try {
    return await SteerModel.load("stories260k", options);
  } finally {
    if (before === undefined) delete process.env.CHATSPACE_INTERPRETER;
    else process.env.CHATSPACE_INTERPRETER = before;
  }
}

for (const dtype of ["float32", "bfloat16", "float16"] as const)
  for (const cudaGraphs of ["off", "on"] as const) {
    const title = `one kernel has the bits of two, ${dtype}, graphs ${cudaGraphs}${skipNote(reason)}`;
    describe.skipIf(reason !== null)(title, () => {
      let two: SteerModel;
      let one: SteerModel;
      beforeAll(async () => {
        two = await load({ device: GPU, dtype, cudaGraphs }, true);
        one = await load({ device: GPU, dtype, cudaGraphs }, false);
        expect([two.info.forward, one.info.forward]).toEqual(["interpreter", "calls"]);
      });
      afterAll(async () => {
        await one?.dispose();
        await two?.dispose();
      });

      for (const { name, steering } of [{ name: "no program", steering: [] }, ...programs(WIDTH)]) {
        it(`a prompt and an answer: ${name}`, async () => {
          const passed = { steering, logits: "all" as const };
          const [wanted, had] = [await two.forward(PROMPT, passed), await one.forward(PROMPT, passed)];
          expect(had.logits).toEqual(wanted.logits);
          const options = {
            steering,
            maxTokens: 24,
            temperature: 0,
            capture: { sites: [1, "layers.2.attn", "final"] },
          };
          const [want, got] = [await two.generate(PROMPT, options), await one.generate(PROMPT, options)];
          expect([...got.tokens]).toEqual([...want.tokens]);
          expect(got.steering).toEqual(want.steering);
          for (const [site, capture] of Object.entries(want.captures ?? {}))
            expect(got.captures?.[site]?.data, site).toEqual(capture.data);
        });
      }

      it("requests with different programs and with none in one batch", async () => {
        const all = [[], ...programs(WIDTH).map(({ steering }) => steering)];
        const options = all.map((steering, i) => ({ steering, maxTokens: 12 + 3 * i, temperature: 0 }));
        const prompts = all.map((_, i) => `${PROMPT} ${"very ".repeat(i)}`);
        const [want, got] = [await two.generate(prompts, options), await one.generate(prompts, options)];
        for (const [i, each] of want.entries()) {
          expect([...(got[i]?.tokens ?? [])]).toEqual([...each.tokens]);
          expect(got[i]?.steering.map(({ rows }) => rows)).toEqual(each.steering.map(({ rows }) => rows));
        }
      });
    });
  }
