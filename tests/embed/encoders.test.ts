// SPDX-License-Identifier: Apache-2.0
// Encoders: what the model's own files say is what is done; batching changes order and padding, never
// results; MiniLM agrees with people about sentences as well as it is known to.

import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { planBatches } from "../../src/embed/batching.ts";
import { type EmbedConfig, resolveConfig } from "../../src/embed/config.ts";
import { openDecoderEncoder, readProgram, type SiteReader } from "../../src/embed/encoders/decoder-site.ts";
import type { ModelSpec } from "../../src/embed/encoders/encoder.ts";
import { onnxModelSpec } from "../../src/embed/encoders/model-files.ts";
import { openOnnxEncoder } from "../../src/embed/encoders/onnx.ts";
import { poolRow } from "../../src/embed/encoders/pooling.ts";
import { RowTokenizer } from "../../src/embed/tokenize.ts";
import { SHARED, scratch, TINY, textRows } from "./support.ts";

const work = scratch("encoders");
const specOf = (model: string, more: Partial<EmbedConfig> = {}): Promise<ModelSpec> =>
  onnxModelSpec(resolveConfig({ dataset: "x", model, ...more }), join(work, "cache"));

async function embed(
  spec: ModelSpec,
  texts: string[],
  limits = { tokensPerBatch: 1024 as number | null, batchSize: null as number | null, minTokens: 1 },
) {
  const tokenizer = await RowTokenizer.open({
    tokenizer: spec.tokenizer as string,
    tokenizerConfig: spec.tokenizerConfig,
    maxTokens: spec.maxTokens,
    prefix: "",
  });
  const encoder = await openOnnxEncoder(spec, { device: "cpu", threads: 2, limits });
  const { ids, offsets } = tokenizer.encodeAll(texts);
  try {
    return await encoder.encode({ rows: texts.length, ids, offsets, texts: null });
  } finally {
    await encoder.close();
  }
}

function ranks(values: readonly number[]): number[] {
  const order = values.map((value, i) => [value, i] as const).sort((a, b) => a[0] - b[0]);
  const out = new Array<number>(values.length);
  for (let i = 0; i < order.length; ) {
    let j = i;
    while (j + 1 < order.length && order[j + 1]?.[0] === order[i]?.[0]) j++;
    for (let k = i; k <= j; k++) out[order[k]?.[1] as number] = (i + j) / 2;
    i = j + 1;
  }
  return out;
}

function pearson(a: readonly number[], b: readonly number[]): number {
  const mean = (v: readonly number[]): number => v.reduce((sum, x) => sum + x, 0) / v.length;
  const [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((x, i) => {
    const y = b[i] as number;
    ab += (x - ma) * (y - mb);
    aa += (x - ma) ** 2;
    bb += (y - mb) ** 2;
  });
  return ab / Math.sqrt(aa * bb);
}

describe("a sentence encoder's files", () => {
  it("say pooling, normalisation and length, and options overrule them", async () => {
    expect(await specOf(TINY)).toMatchObject({
      pooling: "mean",
      poolingSource: "1_Pooling/config.json",
      normalize: true,
      normalizeSource: "modules.json",
      maxTokens: 128,
    });
    expect(await specOf(TINY, { pooling: "cls", normalize: false, bucketMaxTokens: 50 })).toMatchObject({
      pooling: "cls",
      poolingSource: "option",
      normalize: false,
      maxTokens: 50,
    });
  });

  it("without pooling and modules fall back to mean, not normalised, and say so", async () => {
    const bare = join(work, "bare");
    cpSync(TINY, bare, { recursive: true });
    for (const name of ["1_Pooling", "modules.json", "sentence_bert_config.json"])
      rmSync(join(bare, name), { recursive: true });
    expect(await specOf(bare)).toMatchObject({
      pooling: "mean",
      poolingSource: "default",
      normalize: false,
      normalizeSource: "default",
      maxTokens: 256,
    });
  });

  it("with modules that would be ignored, without weights or tokenizer, are refused", async () => {
    const dense = join(work, "dense");
    cpSync(TINY, dense, { recursive: true });
    writeFileSync(
      join(dense, "modules.json"),
      JSON.stringify([{ type: "sentence_transformers.models.Dense" }]),
    );
    await expect(specOf(dense)).rejects.toMatchObject({ code: "ERR_MODEL_MODULE" });
    await expect(specOf(TINY, { dtype: "float16" })).rejects.toMatchObject({ code: "ERR_MODEL_NOT_FOUND" });
    rmSync(join(dense, "tokenizer.json"));
    writeFileSync(join(dense, "modules.json"), "[]");
    await expect(specOf(dense)).rejects.toMatchObject({ code: "ERR_MODEL_FILE" });
  });
});

describe("batches", () => {
  it("hold every row once, within the budget, sorted by length", () => {
    const lengths = Array.from({ length: 500 }, (_, i) => 1 + ((i * 7919) % 300));
    const offsets = Int32Array.from([
      0,
      ...lengths.map((_, i) => lengths.slice(0, i + 1).reduce((sum, n) => sum + n, 0)),
    ]);
    for (const [tokensPerBatch, batchSize] of [
      [1024, null],
      [64, null],
      [null, 32],
      [4096, 8],
    ] as const) {
      const batches = planBatches(offsets, { tokensPerBatch, batchSize, minTokens: 8 });
      expect(batches.flatMap((batch) => [...batch.rows]).sort((a, b) => a - b)).toEqual(
        lengths.map((_, i) => i),
      );
      for (const { rows, length } of batches) {
        expect(length).toBe(Math.max(...[...rows].map((row) => lengths[row] as number)));
        if (tokensPerBatch !== null && rows.length > 1)
          expect(rows.length * length).toBeLessThanOrEqual(tokensPerBatch);
        if (batchSize !== null) expect(rows.length).toBeLessThanOrEqual(batchSize);
      }
    }
  });

  it("do not change what a row's vector is", async () => {
    const spec = await specOf(TINY);
    const texts = textRows(80).map((row) => row.text || "empty");
    const together = await embed(spec, texts);
    const alone = await embed(spec, texts, { tokensPerBatch: null, batchSize: 1, minTokens: 1 });
    let worst = 0;
    together.embeddings.forEach((value, i) => {
      worst = Math.max(worst, Math.abs(value - (alone.embeddings[i] as number)));
    });
    console.log(
      `batched against alone: max |difference| ${worst.toExponential(2)}, padding ${(100 * (1 - together.tokens / together.paddedTokens)).toFixed(1)} %`,
    );
    expect(worst).toBeLessThan(1e-6);
    expect(alone.tokens).toBe(alone.paddedTokens);
  });
});

describe("pooling", () => {
  const data = Float32Array.of(1, 2, 3, 4, 5, -6, 100, 100);
  const pool = (pooling: Parameters<typeof poolRow>[2]): number[] => {
    const out = new Float32Array(2);
    poolRow({ data, length: 4, dim: 2, lengths: [3] }, 0, pooling, out, 0);
    return [...out];
  };
  it("follows the formulas and never sees padding", () => {
    expect(pool("cls")).toEqual([1, 2]);
    expect(pool("last")).toEqual([5, -6]);
    expect(pool("max")).toEqual([5, 4]);
    expect(pool("mean")).toEqual([3, 0]);
    expect(pool("mean-sqrt-len")).toEqual([9 / Math.sqrt(3), 0].map(Math.fround));
    expect(pool("weighted-mean")).toEqual([(1 + 6 + 15) / 6, (2 + 8 - 18) / 6].map(Math.fround));
  });
});

describe("a tokenizer", () => {
  it("cuts long rows at the limit, special tokens kept, whatever their length", async () => {
    const tokenizer = await RowTokenizer.open({
      tokenizer: join(TINY, "tokenizer.json"),
      tokenizerConfig: null,
      maxTokens: 16,
      prefix: "",
    });
    const short = tokenizer.encode("the of and");
    expect(short[0]).toBe(2);
    expect(short.at(-1)).toBe(3);
    const long = tokenizer.encode("the of and ".repeat(100_000));
    expect(long.length).toBe(16);
    expect(long.slice(0, 15)).toEqual(tokenizer.encode("the of and ".repeat(40)).slice(0, 15));
    expect(long.at(-1)).toBe(3);
  });
});

/** The reader's contract with a runtime, met by a table: row t of a text is [token id, position]. */
function tableReader(calls: object[]): SiteReader {
  return {
    info: { contextLength: 8, weightHash: "" },
    tokenizer: { encode: (text) => Int32Array.from([...text].map((c) => c.charCodeAt(0))) },
    async forward(ids, options) {
      calls.push(options);
      const rows = [...ids].map((id, position) => [id, position]);
      const { pool } = options.capture;
      const picked =
        pool === "mean"
          ? [[0, 1].map((c) => rows.reduce((sum, row) => sum + (row[c] as number), 0) / rows.length)]
          : pool === "last"
            ? [rows.at(-1) as number[]]
            : rows;
      return {
        captures: { "layers.3": { data: Float32Array.from(picked.flat()), shape: [picked.length, 2] } },
      };
    },
    dispose: async () => undefined,
  };
}

describe("a site of a decoder", () => {
  const spec: ModelSpec = {
    kind: "decoder",
    name: "d",
    path: "d.pt",
    tokenizer: null,
    tokenizerConfig: null,
    pooling: "mean",
    poolingSource: "default",
    normalize: false,
    normalizeSource: "default",
    maxTokens: 100,
    padId: 0,
    identity: {},
    site: "layers.3",
    steering: null,
  };
  it("is captured at the site, pooled as asked, cut at the context, steered as told", async () => {
    const calls: object[] = [];
    const open = async () => tableReader(calls);
    const options = { device: "cpu", threads: 1, prefix: "" };
    const request = { rows: 2, ids: null, offsets: null, texts: ["ac", "abcdefghijkl"] };
    const mean = await (await openDecoderEncoder(spec, options, open)).encode(request);
    expect([...mean.embeddings]).toEqual([98, 0.5, 100.5, 3.5]);
    expect(mean.tokens).toBe(10);
    const last = await (await openDecoderEncoder({ ...spec, pooling: "last" }, options, open)).encode(
      request,
    );
    expect([...last.embeddings]).toEqual([99, 1, 104, 7]);
    const max = await (await openDecoderEncoder({ ...spec, pooling: "max" }, options, open)).encode(request);
    expect([...max.embeddings]).toEqual([99, 1, 104, 7]);
    const steered = { ...spec, steering: JSON.stringify([{ site: "layers.1", vector: [1, 2], scale: 2 }]) };
    await (await openDecoderEncoder(steered, options, open)).encode(request);
    expect(calls.at(-1)).toMatchObject({
      capture: { sites: ["layers.3"] },
      steering: [{ site: "layers.1", vector: [1, 2], scale: 2 }],
    });
  });

  it("takes programs as terms and as JSON", async () => {
    expect(await readProgram("0.5 happy@layers.12 + calm")).toEqual([
      { vector: "happy", scale: 0.5, site: "layers.12" },
      { vector: "calm" },
    ]);
    expect(await readProgram('{"vector":[1],"layer":2}')).toEqual([{ vector: [1], layer: 2 }]);
    await expect(readProgram("two words here")).rejects.toMatchObject({ code: "ERR_STEERING_TEXT" });
  });
});

const miniLm = join(SHARED, "models/all-MiniLM-L6-v2-onnx");
describe.skipIf(!existsSync(miniLm))("all-MiniLM-L6-v2", () => {
  it("reaches Spearman 0.82 on STS-B test", { timeout: 600_000 }, async () => {
    const pairs = readFileSync(join(SHARED, "data/stsb/stsb-en-test.csv"), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => {
        const fields = [...line.matchAll(/("(?:[^"]|"")*"|[^,]*)(?:,|$)/g)].map(([, field]) =>
          (field ?? "").replace(/^"|"$/g, "").replaceAll('""', '"'),
        );
        return { a: fields[0] as string, b: fields[1] as string, score: Number(fields[2]) };
      });
    expect(pairs.length).toBe(1379);
    const { embeddings, dim } = await embed(
      await specOf(miniLm),
      pairs.flatMap(({ a, b }) => [a, b]),
    );
    const cosines = pairs.map((_, i) => {
      let [ab, aa, bb] = [0, 0, 0];
      for (let c = 0; c < dim; c++) {
        const x = embeddings[2 * i * dim + c] as number;
        const y = embeddings[(2 * i + 1) * dim + c] as number;
        ab += x * y;
        aa += x * x;
        bb += y * y;
      }
      return ab / Math.sqrt(aa * bb);
    });
    const spearman = pearson(ranks(cosines), ranks(pairs.map(({ score }) => score)));
    console.log(`STS-B test: Spearman ${spearman.toFixed(4)} over ${pairs.length} pairs`);
    expect(spearman).toBeGreaterThan(0.82);
  });
});
