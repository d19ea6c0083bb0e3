// SPDX-License-Identifier: Apache-2.0
// int16 activations: what they change against the exact products, batch invariance through the whole model,
// two models of both kinds at once, and what is refused. The default model where it is in the cache.
import { describe, expect, test } from "vitest";
import type { LoadOptions } from "../../src/model/load-options.ts";
import { SteerModel } from "../../src/model/steer-model.ts";
import { listModels } from "../../src/model/store.ts";
import { Golden } from "./golden.ts";

const SMALL = "stories260k";
const LARGE = "smollm2-135m-instruct";
const state = listModels().find((model) => model.name === LARGE)?.state;
const here = Golden.has("smollm2") && (state === "ready" || state === "fetched");

async function using<T>(
  name: string,
  options: LoadOptions,
  body: (model: SteerModel) => Promise<T>,
): Promise<T> {
  const model = await SteerModel.load(name, {
    device: "cpu",
    dtype: "float32",
    cacheBytes: 1 << 27,
    ...options,
  });
  try {
    return await body(model);
  } finally {
    await model.dispose();
  }
}

const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

describe("int16 activations", () => {
  test("auto is int16 where quantisation was asked for, float32 where nothing may be lost", async () => {
    const found = async (options: LoadOptions) =>
      using(SMALL, options, async ({ info }) => [info.quantize, info.activations]);
    expect(await found({ quantize: "int8" })).toEqual(["int8", "int16"]);
    expect(await found({ quantize: "int4" })).toEqual(["int4", "int16"]);
    expect(await found({ quantize: "int8", activations: "float32" })).toEqual(["int8", "float32"]);
    expect(await found({ quantize: "none" })).toEqual(["none", "float32"]);
    // The archive's matrices are float32: "stored" finds nothing to keep.
    expect(await found({ quantize: "stored" })).toEqual(["stored", "float32"]);
  });

  test("int16 without quantised matrices is refused", async () => {
    for (const quantize of ["none", "stored"] as const)
      await expect(using(SMALL, { quantize, activations: "int16" }, async () => {})).rejects.toMatchObject({
        code: "ERR_ACTIVATIONS",
      });
    await expect(SteerModel.load(SMALL, { activations: "int8" as unknown as "int16" })).rejects.toThrow(
      /activations/,
    );
  });

  test("a row alone has the bits of the row in a batch, at any chunking and number of threads", async () => {
    for (const quantize of ["int8", "int4"] as const) {
      const tokens = Array.from({ length: 60 }, (_, i) => 5 + ((i * 37) % 400));
      const whole = (options: LoadOptions) =>
        using(SMALL, { quantize, ...options }, async (model) => {
          const passes = await Promise.all(
            [60, 41, 1].map((count) => model.forward({ tokens: tokens.slice(0, count) }, { logits: "all" })),
          );
          return passes.map(({ logits }) => bits(logits));
        });
      const [long, middle, one] = await whole({ threads: 1 });
      expect(long!.subarray(0, middle!.length).equals(middle!)).toBe(true);
      expect(long!.subarray(0, one!.length).equals(one!)).toBe(true);
      for (const options of [{ threads: 2 }, { threads: 3, tokenBudget: 7 }])
        expect((await whole(options)).map((b, i) => b.equals([long!, middle!, one!][i]!))).toEqual([
          true,
          true,
          true,
        ]);
    }
  });

  test("models of both kinds run side by side and do not disturb each other", async () => {
    const prompts = ["Once upon a time", "The dog was", "Lily saw a"];
    const options = { maxTokens: 24, temperature: 0, ignoreEos: true };
    const run = async (model: SteerModel) =>
      (await model.generate(prompts, options)).map(({ tokens }) => Array.from(tokens));
    const logits = async (model: SteerModel) =>
      bits((await model.forward("Once upon a time there was", { logits: "all" })).logits);
    const load = (activations: "float32" | "int16") =>
      ({ quantize: "int8", activations, threads: 2 }) as const;
    const alone = {
      exact: await using(SMALL, load("float32"), async (m) => [await run(m), await logits(m)]),
      fast: await using(SMALL, load("int16"), async (m) => [await run(m), await logits(m)]),
    };
    expect(alone.exact[1]).not.toEqual(alone.fast[1]);
    await using(SMALL, load("float32"), (exact) =>
      using(SMALL, load("int16"), async (fast) => {
        const [a, b, c, d] = await Promise.all([run(exact), run(fast), logits(exact), logits(fast)]);
        expect([a, c]).toEqual(alone.exact);
        expect([b, d]).toEqual(alone.fast);
      }),
    );
  });
});

describe.skipIf(!here)(`int16 activations of ${LARGE} (needs ../shared and the model in the cache)`, () => {
  test.each(["int8", "int4"] as const)(
    "%s against float32 activations",
    { timeout: 120_000 },
    async (quantize) => {
      const { prompts } = new Golden("smollm2");
      const ids = prompts.slice(0, 4).map((prompt) => Int32Array.from(prompt.ids));
      const measure = (activations: "float32" | "int16") =>
        using(LARGE, { quantize, activations }, async (model) => ({
          logits: await Promise.all(
            ids.map(async (tokens) => (await model.forward({ tokens }, { logits: "all" })).logits),
          ),
          answers: (
            await model.generate(
              ids.map((tokens) => ({ tokens })),
              { maxTokens: 32, temperature: 0, ignoreEos: true },
            )
          ).map(({ tokens }) => Array.from(tokens)),
          vocab: model.info.vocabSize,
          bytes: model.info.weightBytes,
        }));
      const exact = await measure("float32");
      const fast = await measure("int16");
      expect(fast.bytes).toBe(exact.bytes);
      const found = compare(exact.logits, fast.logits, exact.vocab);
      const equal = exact.answers.map((tokens, i) => {
        const other = fast.answers[i]!;
        const at = tokens.findIndex((token, j) => token !== other[j]);
        return at < 0 ? tokens.length : at;
      });
      console.log(
        `${quantize}: int16 against float32 activations: worst logit deviation ${found.worst.toExponential(2)} of ` +
          `${found.largest.toFixed(1)}, mean KL ${found.kl.toExponential(2)} nats, top-1 the same at ` +
          `${found.same} of ${found.rows}; greedy tokens equal ${equal.join(" ")} of 32`,
      );
      // int8 weights cost a KL of about 1e-3 on this model: this is to be a hundredth or less.
      expect(found.kl).toBeLessThan(1e-5);
      expect(found.same).toBe(found.rows);
      expect(equal).toEqual(exact.answers.map((tokens) => tokens.length));
    },
  );
});

/** Worst |a - b|, mean KL(a || b) in nats, rows whose likeliest token is the same. */
function compare(a: Float32Array[], b: Float32Array[], vocab: number) {
  let [worst, largest, kl, same, rows] = [0, 0, 0, 0, 0];
  for (const [index, first] of a.entries()) {
    for (let at = 0; at < first.length; at += vocab, rows++) {
      const [p, q] = [first.subarray(at, at + vocab), b[index]!.subarray(at, at + vocab)];
      const [sumP, sumQ] = [logSumExp(p), logSumExp(q)];
      for (let i = 0; i < vocab; i++) {
        worst = Math.max(worst, Math.abs(p[i]! - q[i]!));
        largest = Math.max(largest, Math.abs(p[i]!));
        const logP = p[i]! - sumP;
        kl += Math.exp(logP) * (logP - (q[i]! - sumQ));
      }
      same += likeliest(p) === likeliest(q) ? 1 : 0;
    }
  }
  return { worst, largest, kl: kl / rows, same, rows };
}

function likeliest(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}

function logSumExp(row: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const x of row) max = Math.max(max, x);
  let sum = 0;
  for (const x of row) sum += Math.exp(x - max);
  return max + Math.log(sum);
}
