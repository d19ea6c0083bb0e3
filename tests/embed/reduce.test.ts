// SPDX-License-Identifier: Apache-2.0
// Reduction keeps neighbours together, gives the same picture for the same seed, samples all shards, and
// writes the original's columns and sidecar.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { pageCodec } from "../../src/data/shards/compression.ts";
import { encodeParquet } from "../../src/data/shards/parquet-writer.ts";
import { listShards, readShard } from "../../src/data/shards/reader.ts";
import { shardSchema } from "../../src/data/shards/schema.ts";
import { seededUint32 } from "../../src/data/shuffle.ts";
import { gaussian, type Points, principalComponents } from "../../src/embed/reduce/linear.ts";
import { nearestNeighbours } from "../../src/embed/reduce/neighbours.ts";
import { reduceEmbeddings } from "../../src/embed/reduce/reduce.ts";
import { tsne } from "../../src/embed/reduce/tsne.ts";
import { fitCurve, umap } from "../../src/embed/reduce/umap.ts";
import { visualPage } from "../../src/embed/visualize/page.ts";
import { readPoints } from "../../src/embed/visualize/points.ts";
import { serveVisual } from "../../src/embed/visualize/serve.ts";
import { scratch } from "./support.ts";

const work = scratch("reduce");

/** `clusters` Gaussian clouds in `dim` dimensions; row i belongs to cloud i % clusters. */
function clouds(rows: number, dim: number, clusters: number): Points {
  const draw = gaussian(seededUint32(3));
  const centres = Array.from({ length: clusters }, () =>
    Float64Array.from({ length: dim }, () => draw() * 4),
  );
  const data = new Float32Array(rows * dim);
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < dim; i++) data[row * dim + i] = (centres[row % clusters]?.[i] as number) + draw();
  return { data, rows, dim };
}

/** Share of the ten nearest in the plane that are of the same cloud. */
function purity(layout: Float32Array, dim: number, clusters: number): number {
  const rows = layout.length / dim;
  const { indices, k } = nearestNeighbours({ data: layout, rows, dim }, 10, 1);
  let same = 0;
  for (let i = 0; i < rows * k; i++)
    if ((indices[i] as number) % clusters === Math.floor(i / k) % clusters) same++;
  return same / (rows * k);
}

describe("a layout", () => {
  const points = clouds(420, 30, 6);

  it.each([2, 3])("by UMAP in %i dimensions keeps clouds apart, the same for the same seed", (components) => {
    const options = { components, neighbours: 12, minDist: 0.1, seed: 42, metric: "euclidean" as const };
    const layout = umap(points, options);
    expect(layout.every(Number.isFinite)).toBe(true);
    expect(purity(layout, components, 6)).toBeGreaterThan(0.98);
    expect(umap(points, options)).toEqual(layout);
    expect(umap(points, { ...options, seed: 43 })).not.toEqual(layout);
  });

  it.each([2, 3])("by t-SNE in %i dimensions keeps clouds apart", (components) => {
    const layout = tsne(points, { components, perplexity: 20, seed: 42, iterations: 350 });
    expect(layout.every(Number.isFinite)).toBe(true);
    expect(purity(layout, components, 6)).toBeGreaterThan(0.98);
  });

  it("by principal components finds the axes that were put in", () => {
    const draw = gaussian(seededUint32(8));
    const data = new Float32Array(2000 * 20);
    for (let row = 0; row < 2000; row++)
      for (let i = 0; i < 20; i++) data[row * 20 + i] = draw() * (i === 4 ? 10 : i === 11 ? 5 : 0.5);
    const { variances, totalVariance, scores } = principalComponents({ data, rows: 2000, dim: 20 }, 2, 1);
    expect(Math.abs((variances[0] as number) / 100 - 1)).toBeLessThan(0.1);
    expect(Math.abs((variances[1] as number) / 25 - 1)).toBeLessThan(0.1);
    expect(Math.abs(totalVariance / (100 + 25 + 18 * 0.25) - 1)).toBeLessThan(0.1);
    let off = 0;
    for (let row = 0; row < 2000; row++)
      off = Math.max(
        off,
        Math.abs(Math.abs(scores[row * 2] as number) - Math.abs(data[row * 20 + 4] as number)),
      );
    expect(off).toBeLessThan(0.8);
  });

  it("survives few points, equal points and zero vectors", () => {
    for (const rows of [1, 2, 3, 5]) {
      const few = { data: new Float32Array(rows * 4).fill(1), rows, dim: 4 };
      expect(
        umap(few, { components: 2, neighbours: 15, minDist: 0.1, seed: 1, metric: "cosine" }).every(
          Number.isFinite,
        ),
      ).toBe(true);
      expect(
        tsne(few, { components: 2, perplexity: 30, seed: 1, iterations: 30 }).every(Number.isFinite),
      ).toBe(true);
    }
  });

  it("uses the curve of the reference implementation", () => {
    // umap-learn's find_ab_params(1.0, 0.1).
    const { a, b } = fitCurve(0.1);
    expect(Math.abs(a - 1.57694)).toBeLessThan(1e-3);
    expect(Math.abs(b - 0.89506)).toBeLessThan(1e-3);
  });
});

describe("neighbours", () => {
  it("of many points are found by search nearly as by comparing all", { timeout: 120_000 }, () => {
    const points = clouds(7000, 16, 30);
    const { indices, k } = nearestNeighbours(points, 10, 5);
    let found = 0;
    for (let probe = 0; probe < 50; probe++) {
      const row = probe * 137;
      const exact = Array.from({ length: points.rows }, (_, other) => {
        let d = 0;
        for (let i = 0; i < 16; i++)
          d += ((points.data[row * 16 + i] as number) - (points.data[other * 16 + i] as number)) ** 2;
        return [d, other] as const;
      })
        .filter(([, other]) => other !== row)
        .sort((a, b) => a[0] - b[0])
        .slice(0, k)
        .map(([, other]) => other);
      const got = new Set(indices.subarray(row * k, (row + 1) * k));
      found += exact.filter((other) => got.has(other)).length;
    }
    console.log(`recall of the search at 7,000 points: ${(found / 500).toFixed(3)}`);
    expect(found / 500).toBeGreaterThan(0.95);
  });
});

describe("reduce-embeddings", () => {
  const folders = ["one", "two"].map((name) => join(work, "embeddings/model", name, "train"));
  beforeAll(async () => {
    const points = clouds(240, 12, 4);
    for (const [f, folder] of folders.entries()) {
      mkdirSync(folder, { recursive: true });
      for (let shard = 0; shard < 3; shard++) {
        const base = f * 120 + shard * 40;
        const rows = Array.from({ length: 40 }, (_, i) => base + i);
        const parts = encodeParquet(
          shardSchema([{ name: "cloud", type: "int64", nullable: true }], 12, "float32"),
          {
            rows: 40,
            columns: [
              rows.map((row) => BigInt(row % 4)),
              rows.map((row) => BigInt(row)),
              rows.map((row) => `row ${row} ${"long ".repeat(row === base ? 300 : 1)}`),
              rows.map(() => "m"),
              rows.map(() => "c"),
              rows.map(() => "r"),
            ],
            embeddings: points.data.slice(base * 12, (base + 40) * 12),
          },
          await pageCodec("zstd"),
        );
        writeFileSync(join(folder, `shard-0000${shard}.parquet`), Buffer.concat(parts));
      }
    }
  });

  it("writes points that can be looked at, with the full row a click away", async () => {
    const output = join(work, "points.parquet");
    const { summary, sidecar } = await reduceEmbeddings({
      embeddingDirs: folders,
      output,
      method: "pca",
      nComponents: 3,
    });
    const written = JSON.parse(readFileSync(sidecar, "utf8"));
    expect(Object.keys(written).slice(0, 8)).toEqual(
      "method n_components n_samples datasets embedding_dirs seed sample_seed max_samples_per_dataset".split(
        " ",
      ),
    );
    expect(summary).toMatchObject({ n_samples: 240, datasets: { one: 120, two: 120 } });
    const points = await readPoints(output);
    expect([points.rows, points.dims]).toEqual([240, 3]);
    expect(points.columns.map((column) => [column.name, column.kind, column.labels])).toEqual([
      ["dataset", "category", ["one", "two"]],
      ["cloud", "category", ["0", "1", "2", "3"]],
    ]);
    expect(points.text[0]?.length).toBe(501);
    const server = await serveVisual(points, { title: "t", host: "127.0.0.1", port: 0 });
    try {
      const row = (await (await fetch(`${server.url}row?i=40`)).json()) as Record<string, unknown>;
      expect(row).toMatchObject({ cloud: 0, row_id: 40, model: "m" });
      expect((row.text as string).length).toBeGreaterThan(1000);
      expect((await fetch(`${server.url}row?i=999`)).status).toBe(404);
      expect(await (await fetch(server.url)).text()).toContain("<canvas");
    } finally {
      await server.close();
    }
  });

  it("samples every shard evenly", async () => {
    const output = join(work, "sample.parquet");
    const { summary } = await reduceEmbeddings({
      embeddingDirs: [folders[0] as string],
      output,
      method: "pca",
      maxSamples: 60,
    });
    expect(summary.n_samples).toBe(60);
    const shards = new Map<string, number>();
    for await (const batch of readShard(output, ["shard"], { start: 0, end: 60 }))
      for (const row of batch.rows) shards.set(String(row.shard), (shards.get(String(row.shard)) ?? 0) + 1);
    expect(shards.size).toBe(3);
    for (const count of shards.values()) expect(count).toBeGreaterThan(8);
  });

  it("names folders without shards, and methods and sizes that are not there", async () => {
    await expect(listShards(work)).rejects.toMatchObject({ code: "ERR_SHARDS_MISSING" });
    await expect(
      reduceEmbeddings({ embeddingDirs: folders, output: "x", nComponents: 4 }),
    ).rejects.toMatchObject({ code: "ERR_OPTION_RANGE" });
    await expect(readPoints(join(folders[0] as string, "shard-00000.parquet"))).rejects.toMatchObject({
      code: "ERR_POINTS_COLUMNS",
    });
  });

  it("puts texts into the page as data, never as markup", async () => {
    const points = await readPoints(join(work, "points.parquet"));
    points.text[0] = "</script><script>alert(1)</script>";
    const page = visualPage(points, { title: "<b>", served: false });
    expect(page).not.toContain("<script>alert");
    expect(page).not.toContain("<b>");
    expect(page).not.toMatch(/(src|href)=/);
  });
});
