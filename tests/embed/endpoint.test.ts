// SPDX-License-Identifier: Apache-2.0
// Embedding by an OpenAI-compatible endpoint, against a server on loopback that does what real ones do:
// plans cost nothing, busy answers are waited out, answers are paid for once, wrong ones are refused.

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { listShards, readShard } from "../../src/data/shards/reader.ts";
import { requestEmbeddings } from "../../src/embed/encoders/endpoint.ts";
import { embedByEndpoint } from "../../src/embed/endpoint-dataset.ts";
import { ensureBuilt, manifestOf, runToEnd, scratch, textRows, writeJsonl } from "./support.ts";

const work = scratch("endpoint");
const data = writeJsonl(join(work, "data"), textRows(300));
let requests = 0;
let texts = 0;
let busy = 0;
let failAfter = Number.POSITIVE_INFINITY;
let answer: (input: string[]) => unknown = honest;

/** Length of the text and its first letters: enough to see that vectors belong to their texts. */
function vectorOf(text: string): number[] {
  return [text.length, text.charCodeAt(0), text.charCodeAt(1) || 0, 1];
}
function honest(input: string[]): unknown {
  // Out of order, as the API allows.
  const items = input.map((text, index) => ({ object: "embedding", index, embedding: vectorOf(text) }));
  return {
    data: items.reverse(),
    usage: { prompt_tokens: input.length * 3, total_tokens: input.length * 3 },
  };
}

const server = createServer((request, response) => {
  let body = "";
  request.on("data", (chunk: Buffer) => {
    body += chunk.toString();
  });
  request.on("end", () => {
    if (busy > 0) {
      busy--;
      response.writeHead(429, { "retry-after": "0" }).end("slow down");
      return;
    }
    if (requests >= failAfter) {
      response.writeHead(401).end("no credit");
      return;
    }
    requests++;
    const { input } = JSON.parse(body) as { input: string[] };
    texts += input.length;
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer(input)));
  });
});
let endpoint = "";

beforeAll(async () => {
  ensureBuilt();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterAll(() => new Promise((resolve) => server.close(resolve)));
beforeEach(() => {
  requests = 0;
  texts = 0;
  busy = 0;
  failAfter = Number.POSITIVE_INFINITY;
  answer = honest;
});

describe("embed-dataset", () => {
  const config = { dataset: data, p: 0.5, seed: 7, model: "some/model", batchSize: 20 };

  it("plans without asking anybody", async () => {
    const { plan, manifest } = await embedByEndpoint({ ...config, endpoint, outputRoot: join(work, "plan") });
    expect(manifest).toBeNull();
    expect(requests).toBe(0);
    expect(plan).toMatchObject({
      rows_total: 300,
      requests: Math.ceil(plan.rows_selected / 20),
      execute: false,
    });
    expect(plan.rows_selected + plan.rows_empty).toBe(150);
  });

  it("spends on execute, goes on after a failure without paying twice, and writes the original's shard", async () => {
    const outputRoot = join(work, "execute");
    failAfter = 3;
    await expect(embedByEndpoint({ ...config, endpoint, outputRoot, execute: true })).rejects.toMatchObject({
      code: "ERR_ENDPOINT_STATUS",
    });
    failAfter = Number.POSITIVE_INFINITY;
    busy = 2;
    const { plan, manifest, requested, reused } = await embedByEndpoint({
      ...config,
      endpoint,
      outputRoot,
      execute: true,
    });
    expect([requested, reused]).toEqual([plan.requests - 3, 3]);
    expect(texts).toBe(plan.rows_selected);
    expect(manifest).toMatchObject({
      model: "some/model",
      sampling: { seed: 7, n: null, p: 0.5 },
      tokens: plan.rows_selected * 3,
    });
    const [shard] = await listShards(join(outputRoot, "embeddings/some__model/data"));
    expect(shard?.columns).toEqual(
      "id source dataset split text metadata model created_at embedding".split(" "),
    );
    for await (const batch of readShard(shard?.path as string, ["id", "text", "embedding"], {
      start: 0,
      end: 1e6,
    }))
      for (const row of batch.rows) expect(row.embedding).toEqual(vectorOf(row.text as string));
  });

  it("draws the same sample for the same seed, and refuses n with p", async () => {
    const draw = async (seed: number) =>
      (await embedByEndpoint({ dataset: data, n: 40, seed, endpoint, outputRoot: join(work, "draw") })).plan
        .characters;
    expect(await draw(1)).toBe(await draw(1));
    expect(await draw(1)).not.toBe(await draw(2));
    await expect(embedByEndpoint({ dataset: data, n: 4, p: 0.1 })).rejects.toMatchObject({
      code: "ERR_OPTION_CONFLICT",
    });
    await expect(embedByEndpoint({ dataset: data, p: 1.5 })).rejects.toMatchObject({
      code: "ERR_OPTION_RANGE",
    });
  });
});

describe("an endpoint", () => {
  const options = () => ({
    endpoint,
    model: "m",
    apiKey: null,
    retry: { tries: 3, waitMs: 1, maxWaitMs: 2 },
  });

  it.each([
    ["too few vectors", () => ({ data: [] })],
    ["an index twice", (input: string[]) => ({ data: input.map(() => ({ index: 0, embedding: [1] })) })],
    [
      "vectors of different lengths",
      (input: string[]) => ({
        data: input.map((_, index) => ({ index, embedding: new Array(index + 1).fill(1) })),
      }),
    ],
    ["no vector", (input: string[]) => ({ data: input.map((_, index) => ({ index })) })],
  ])("that answers with %s is refused", async (_name, wrong) => {
    answer = wrong;
    await expect(requestEmbeddings(["a", "b"], options())).rejects.toMatchObject({
      code: "ERR_ENDPOINT_ANSWER",
      name: "ServiceError",
    });
  });

  it("that is not there, or stays busy, is named with the number of tries", async () => {
    await expect(
      requestEmbeddings(["a"], { ...options(), endpoint: "http://127.0.0.1:9/v1" }),
    ).rejects.toMatchObject({ code: "ERR_SERVICE_UNREACHABLE", details: { tries: 3 } });
    busy = 100;
    await expect(requestEmbeddings(["a"], options())).rejects.toMatchObject({
      code: "ERR_ENDPOINT_STATUS",
      details: { status: 429 },
    });
  });

  it("embeds in the pipeline too", async () => {
    const outputRoot = join(work, "pipeline");
    await runToEnd({
      dataset: data,
      model: "some/model",
      endpoint,
      outputRoot,
      rowsPerShard: 100,
      batchSize: 16,
    });
    expect(manifestOf(outputRoot)).toMatchObject({
      rows_total: 292,
      embedding_dim: 4,
      pooling: { mode: "model", from: "endpoint" },
    });
    const [shard] = await listShards(join(outputRoot, "embeddings/some__model/data/train"));
    for await (const batch of readShard(shard?.path as string, ["text", "embedding"], { start: 0, end: 100 }))
      for (const row of batch.rows) expect(row.embedding).toEqual(vectorOf(row.text as string));
  });
});
