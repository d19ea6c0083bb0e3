// SPDX-License-Identifier: Apache-2.0
// Shards: the declared schema, read back by pyarrow, DuckDB and ourselves to the bit; manifest and run
// summary with the original's keys.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { sanitizeComponent } from "../../src/data/names.ts";
import { type Compression, pageCodec } from "../../src/data/shards/compression.ts";
import { fromHalf, toHalfArray } from "../../src/data/shards/half.ts";
import { encodeParquet } from "../../src/data/shards/parquet-writer.ts";
import { listShards, readShard } from "../../src/data/shards/reader.ts";
import { shardSchema } from "../../src/data/shards/schema.ts";
import {
  ensureBuilt,
  manifestOf,
  runToEnd,
  scratch,
  startRun,
  TINY,
  textRows,
  writeJsonl,
} from "./support.ts";

const work = scratch("shards");
const python = process.env.CHATSPACE_PYTHON ?? "python3";

function hasPython(modules: string): boolean {
  try {
    execFileSync(python, ["-c", `import ${modules}`], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
const readable = hasPython("pyarrow, duckdb");
if (!readable) console.warn("skipped: no Python with pyarrow and duckdb (set CHATSPACE_PYTHON)");

async function write(rows: number, type: "float32" | "float16", compression: Compression): Promise<string> {
  const dim = 24;
  const schema = shardSchema(
    [
      { name: "score", type: "double", nullable: true },
      { name: "ok", type: "bool", nullable: true },
      { name: "meta", type: "json", nullable: true },
    ],
    dim,
    type,
  );
  const embeddings = Float32Array.from({ length: rows * dim }, (_, i) => Math.sin(i));
  const fill = <T>(make: (i: number) => T): T[] => Array.from({ length: rows }, (_, i) => make(i));
  const parts = encodeParquet(
    schema,
    {
      rows,
      columns: [
        fill((i) => (i % 3 ? i / 2 : null)),
        fill((i) => (i % 5 ? i % 2 === 0 : null)),
        fill((i) => (i % 4 ? `{"a":${i}}` : null)),
        fill((i) => BigInt(i) * 3n),
        fill((i) => `text é 🙂 ${i}`),
        fill(() => "m"),
        fill(() => "c"),
        fill(() => "r"),
      ],
      embeddings: type === "float16" ? toHalfArray(embeddings) : embeddings,
    },
    await pageCodec(compression),
  );
  const path = join(work, `shard-${type}-${compression}-${rows}.parquet`);
  writeFileSync(path, Buffer.concat(parts));
  return path;
}

const SCRIPT = `
import json, sys
import duckdb, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1], page_checksum_verification=True)
con = duckdb.connect()
count, total, width = con.sql(f"select count(*), sum(row_id), max(len(embedding)) from '{sys.argv[1]}'").fetchall()[0]
first = con.sql(f"select text, score, ok, meta from '{sys.argv[1]}' order by row_id limit 3").fetchall()
print(json.dumps({
  "types": {field.name: [str(field.type), field.nullable] for field in table.schema},
  "rows": table.num_rows,
  "vectors": [[float(x) for x in row] for row in table["embedding"].slice(0, 2).to_pylist()],
  "score": table["score"].slice(0, 4).to_pylist(), "ok": table["ok"].slice(0, 6).to_pylist(),
  "duck": [count, int(total or 0), width], "first": first,
}))`;

describe("a shard", () => {
  const kinds = (["float32", "float16"] as const).flatMap((type) =>
    (["zstd", "gzip", "none"] as const).flatMap((codec) =>
      [1, 40_000].map((rows) => [type, codec, rows] as const),
    ),
  );

  it.skipIf(!readable).each(kinds)(
    "of %s, %s, %i rows is read by pyarrow and DuckDB",
    async (type, codec, rows) => {
      const path = await write(rows, type, codec);
      const seen = JSON.parse(execFileSync(python, ["-c", SCRIPT, path], { encoding: "utf8" }));
      const element = type === "float32" ? "float" : "halffloat";
      expect(seen.types).toEqual({
        score: ["double", true],
        ok: ["bool", true],
        meta: ["string", true],
        row_id: ["int64", false],
        text: ["string", false],
        model: ["string", false],
        created_at: ["string", false],
        run_id: ["string", false],
        embedding: [`fixed_size_list<element: ${element} not null>[24]`, false],
      });
      expect(seen.rows).toBe(rows);
      expect(seen.duck).toEqual([rows, (3 * rows * (rows - 1)) / 2, 24]);
      const exact = Float32Array.from({ length: 24 }, (_, i) => Math.sin(i));
      const expected = type === "float32" ? [...exact] : Array.from(toHalfArray(exact), fromHalf);
      expect(seen.vectors[0]).toEqual(expected);
      if (rows > 1) {
        expect(seen.score).toEqual([null, 0.5, 1, null]);
        expect(seen.ok).toEqual([null, false, true, false, true, null]);
        expect(seen.first[1]).toEqual(["text é 🙂 1", 0.5, false, '{"a":1}']);
      }
    },
  );

  it("is the same bytes for the same rows", async () => {
    const first = readFileSync(await write(500, "float32", "zstd"));
    expect(readFileSync(await write(500, "float32", "zstd")).equals(first)).toBe(true);
  });

  it("rounds to half precision as IEEE says", () => {
    const cases: [number, number][] = [
      [0, 0],
      [-0, 0x8000],
      [1, 0x3c00],
      [65504, 0x7bff],
      [65519.99, 0x7bff],
      [65520, 0x7c00],
      [2 ** -24, 1],
      [2 ** -25, 0],
      [2 ** -25 * 1.0001, 1],
      [2 ** -14, 0x0400],
      [2 ** -14 - 2 ** -26, 0x0400],
      [1 + 2 ** -11, 0x3c00],
      [1 + 3 * 2 ** -11, 0x3c02],
      [Number.POSITIVE_INFINITY, 0x7c00],
    ];
    for (const [value, bits] of cases)
      expect([value, toHalfArray(Float32Array.of(value))[0]]).toEqual([value, bits]);
    for (let bits = 0; bits < 0x7c00; bits++)
      expect(toHalfArray(Float32Array.of(fromHalf(bits)))[0]).toBe(bits);
  });

  it("refuses source columns with the name of its own", () => {
    expect(() =>
      shardSchema([{ name: "embedding", type: "json", nullable: true }], 2, "float32"),
    ).toThrowError(expect.objectContaining({ code: "ERR_COLUMN_RESERVED" }));
  });
});

describe("a run's files", () => {
  const root = join(work, "run");
  const rows = textRows(1000);
  beforeAll(async () => {
    ensureBuilt();
    await runToEnd({
      dataset: writeJsonl(join(work, "data"), rows),
      model: TINY,
      columns: ["label", "tag"],
      rowsPerShard: 300,
      windowRows: 128,
      outputRoot: root,
      threads: 1,
    });
  });

  it("defect 1: hold every row once, in the order of the data set", async () => {
    const shards = await listShards(join(root, "embeddings/tiny-encoder/data/train"));
    const seen: { row_id: bigint; text: string; label: bigint; tag: string | null }[] = [];
    for (const shard of shards)
      for await (const batch of readShard(shard.path, ["row_id", "text", "label", "tag"], {
        start: 0,
        end: shard.rows,
      }))
        seen.push(...(batch.rows as typeof seen));
    const expected = rows
      .map((row, i) => ({ row_id: BigInt(i), text: row.text, label: BigInt(row.label), tag: row.tag }))
      .filter((row) => row.text !== "");
    expect(seen.map((row) => ({ ...row }))).toEqual(expected);
  });

  it("have the original's keys, and hashes that are those of the files", () => {
    const manifest = manifestOf(root);
    const keys =
      "dataset subset split model source rows_total rows_skipped embedding_dim rows_per_shard shards created_at run_id min_norm max_norm preprocessing run_config";
    expect(Object.keys(manifest).slice(0, 16)).toEqual(keys.split(" "));
    expect(manifest).toMatchObject({
      rows_total: 973,
      rows_skipped: 27,
      embedding_dim: 32,
      pooling: { mode: "mean", from: "1_Pooling/config.json" },
      normalized: { value: true, from: "modules.json" },
    });
    for (const shard of manifest.shards) {
      for (const key of "path rows bytes sha256 embedding_dim min_norm max_norm created_at shard_index tool".split(
        " ",
      ))
        expect(shard).toHaveProperty(key);
      const bytes = readFileSync(join(root, shard.path as string));
      expect(createHash("sha256").update(bytes).digest("hex")).toBe(shard.sha256);
      expect(bytes.length).toBe(shard.bytes);
    }
    const summary = JSON.parse(readFileSync(join(root, "indexes/tiny-encoder/data/run-train.json"), "utf8"));
    const summaryKeys =
      "dataset subset split model created_at run_id duration_seconds rows_total rows_skipped num_shards embedding_dim git_sha manifest_path min_norm max_norm tool_version";
    expect(Object.keys(summary).slice(0, 16)).toEqual(summaryKeys.split(" "));
    expect(summary.session.rows).toBe(973);
  });

  it("have the original's names", () => {
    expect(sanitizeComponent("Qwen/Qwen3-Embedding-0.6B")).toBe("Qwen__Qwen3-Embedding-0-6B");
    expect(sanitizeComponent("a//b  c--d-")).toBe("a____b-c-d");
    expect(sanitizeComponent("...")).toBe("unnamed");
  });

  it("refuse a text column that is not there, and a column whose later value does not fit", async () => {
    const settings = {
      dataset: join(work, "data"),
      model: TINY,
      outputRoot: join(work, "other"),
      threads: 1,
    };
    expect((await startRun({ ...settings, textField: "body" }).ended).result).toMatchObject({
      error: "ERR_TEXT_FIELD",
      details: { present: ["text", "label", "tag"] },
    });
    writeFileSync(join(work, "late.jsonl"), `${'{"text":"a","n":1}\n'.repeat(1200)}{"text":"b","n":"two"}\n`);
    expect(
      (await startRun({ ...settings, dataset: join(work, "late.jsonl"), columns: ["n"] }).ended).result,
    ).toMatchObject({
      error: "ERR_COLUMN_TYPE",
    });
  });
});
