// SPDX-License-Identifier: Apache-2.0
// The hub as a source, against a hub on loopback that cuts, stalls and redirects: the same rows come, at
// the commit asked for, fetched once, from where a broken connection ended.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { downloadDataset } from "../../src/data/download.ts";
import { hubSource } from "../../src/data/sources/hub.ts";
import { readRows } from "../../src/data/sources/rows.ts";
import { isFault, type Row } from "../../src/data/sources/source.ts";
import { LocalHub } from "./fixtures/hub.ts";
import { ensureBuilt, manifestOf, runToEnd, scratch, startRun, TINY, textRows } from "./support.ts";

const work = scratch("hub");
const hub = new LocalHub();
const rows = textRows(900);
let folders = 0;
let cacheFolder = "";

beforeAll(async () => {
  ensureBuilt();
  await hub.start();
  process.env.HF_ENDPOINT = hub.url;
  const half = rows.slice(0, 500);
  const bytes = parquetWriteBuffer({
    columnData: [
      { name: "text", data: half.map((r) => r.text), type: "STRING" },
      { name: "label", data: half.map((r) => r.label), type: "INT32" },
    ],
  });
  const rest = rows.slice(500);
  const tail = parquetWriteBuffer({
    columnData: [
      { name: "text", data: rest.map((r) => r.text), type: "STRING" },
      { name: "label", data: rest.map((r) => r.label), type: "INT32" },
    ],
  });
  hub.add("README.md", "# a set", { lfs: false });
  hub.add("data/train-00000-of-00002.parquet", new Uint8Array(bytes));
  hub.add("data/train-00001-of-00002.parquet", new Uint8Array(tail));
  hub.add(
    "data/test.jsonl",
    rows
      .slice(0, 50)
      .map((r) => `${JSON.stringify(r)}\n`)
      .join(""),
    { lfs: false },
  );
});
afterAll(async () => {
  delete process.env.HF_ENDPOINT;
  await hub.stop();
});
beforeEach(() => {
  hub.requests.length = 0;
  hub.token = null;
  Object.assign(hub.trouble, { busy: 0, cutAfter: 0, cuts: 0, altered: 0, noRange: false });
  cacheFolder = join(work, `cache-${folders++}`);
});

const quick = { tries: 6, waitMs: 5, maxWaitMs: 20 };

async function texts(split = "train"): Promise<unknown[]> {
  const source = await hubSource("user/set", {
    subset: null,
    split,
    revision: "main",
    cacheFolder,
    retry: quick,
  });
  const out: unknown[] = [];
  for await (const batch of readRows(source, 0, ["text"]))
    for (const row of batch.rows) {
      if (isFault(row)) throw row.fault;
      out.push((row as Row).text);
    }
  return out;
}

const expected = rows.map((row) => row.text);

describe("a data set on the hub", () => {
  it("is read whole at one commit, and the second time without a request for its files", async () => {
    expect(await texts()).toEqual(expected);
    expect(hub.requests.filter(({ path }) => path.startsWith("storage:")).length).toBeGreaterThan(0);
    hub.requests.length = 0;
    expect(await texts()).toEqual(expected);
    expect(hub.requests.every(({ path }) => path.startsWith("/api/"))).toBe(true);
  });

  it("waits when the hub is busy", async () => {
    hub.trouble.busy = 4;
    expect(await texts()).toEqual(expected);
    expect(hub.trouble.busy).toBe(0);
  });

  it("goes on where a connection was cut", async () => {
    hub.trouble.cutAfter = 2000;
    hub.trouble.cuts = 3;
    expect(await texts()).toEqual(expected);
    const ranges = hub.requests
      .map(({ range }) => range)
      .filter((range) => range !== undefined && /^bytes=[1-9]\d*-$/.test(range));
    expect(ranges.length).toBeGreaterThan(0);
  });

  it("begins the file anew where the server knows no ranges", async () => {
    hub.trouble.cutAfter = 2000;
    hub.trouble.cuts = 1;
    hub.trouble.noRange = true;
    expect(await texts()).toEqual(expected);
  });

  it("fetches again what came altered, and gives up with both hashes when it stays so", async () => {
    hub.trouble.altered = 1;
    expect(await texts()).toEqual(expected);
    cacheFolder = join(work, `cache-${folders++}`);
    hub.trouble.altered = 100;
    await expect(texts()).rejects.toMatchObject({ code: "ERR_HUB_HASH", name: "ServiceError" });
  });

  it("gives files kept in git too, checked by their git hash", async () => {
    expect((await texts("test")).length).toBe(50);
  });

  it("sends the token to the hub and never to the storage it redirects to", async () => {
    hub.token = "hf_secret";
    await expect(texts()).rejects.toMatchObject({ code: "ERR_HUB_NOT_FOUND" });
    process.env.HF_TOKEN = "hf_secret";
    try {
      hub.requests.length = 0;
      expect(await texts()).toEqual(expected);
      for (const { path, authorization } of hub.requests)
        expect([path, authorization]).toEqual([
          path,
          path.startsWith("storage:") ? undefined : "Bearer hf_secret",
        ]);
    } finally {
      delete process.env.HF_TOKEN;
    }
  });

  it("is said to be missing, or unreachable, in words", async () => {
    await expect(
      hubSource("user/none", { subset: null, split: "train", revision: "main", cacheFolder, retry: quick }),
    ).rejects.toMatchObject({
      code: "ERR_HUB_NOT_FOUND",
    });
    process.env.HF_ENDPOINT = "http://127.0.0.1:9";
    try {
      await expect(texts()).rejects.toMatchObject({ code: "ERR_SERVICE_UNREACHABLE", name: "ServiceError" });
    } finally {
      process.env.HF_ENDPOINT = hub.url;
    }
  });

  it("is embedded in a run that is cut off and resumed, with its commit in the manifest", async () => {
    const config = {
      dataset: "user/set",
      model: TINY,
      outputRoot: join(work, "run"),
      rowsPerShard: 200,
      windowRows: 100,
      threads: 1,
    };
    hub.trouble.cutAfter = 3000;
    hub.trouble.cuts = 2;
    const run = startRun(config, { HF_ENDPOINT: hub.url });
    await run.stages;
    run.child.kill("SIGKILL");
    await run.ended;
    await runToEnd(config);
    const manifest = manifestOf(config.outputRoot);
    expect(manifest).toMatchObject({
      source: "huggingface",
      revision: hub.commit,
      rows_total: rows.filter((row) => row.text !== "").length,
    });
  });

  it("is refused on resume when the revision has moved", async () => {
    const config = {
      dataset: "user/set",
      split: "test",
      model: TINY,
      outputRoot: join(work, "moved"),
      threads: 1,
    };
    await runToEnd(config);
    hub.commit = "d".repeat(40);
    const { result } = await startRun({ ...config, resume: true }).ended;
    expect(result).toMatchObject({ error: "ERR_RESUME_SETTINGS" });
    hub.commit = "c".repeat(40);
  });

  it("is described by download-dataset", async () => {
    const { description, path } = await downloadDataset({
      name: "user/set",
      subset: null,
      split: "train",
      revision: "main",
      outputRoot: join(work, "download"),
    });
    expect(description).toMatchObject({
      dataset: "user/set",
      source: "huggingface",
      split: "train",
      num_rows: 900,
      features: { text: "string", label: "int64" },
    });
    expect(path.endsWith(join("datasets/raw/huggingface/user__set/train/dataset.json"))).toBe(true);
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual(description);
    const left = readdirSync(join(work, "download/cache/hub"), { recursive: true }).filter((name) =>
      String(name).endsWith(".incomplete"),
    );
    expect(left).toEqual([]);
    expect(existsSync(join(work, "download/cache/hub"))).toBe(true);
  });
});
