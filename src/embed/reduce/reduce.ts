// SPDX-License-Identifier: Apache-2.0
// reduce-embeddings: vectors of several data sets to two or three coordinates, as Parquet with the
// original's columns and its JSON sidecar.

import { basename, dirname, join, resolve } from "node:path";
import { writeFileAtomic } from "../../data/files.ts";
import { pageCodec } from "../../data/shards/compression.ts";
import { fromHalf } from "../../data/shards/half.ts";
import { encodeParquet } from "../../data/shards/parquet-writer.ts";
import { listShards, readShard, type ShardFile } from "../../data/shards/reader.ts";
import { coerce, inferType, RESERVED_COLUMNS, type ScalarColumn } from "../../data/shards/schema.ts";
import { seededPermutation } from "../../data/shuffle.ts";
import { DataError, misuse } from "../../errors.ts";
import { normalizeRow } from "../encoders/pooling.ts";
import { type Points, principalComponents } from "./linear.ts";
import { tsne } from "./tsne.ts";
import { umap } from "./umap.ts";

export const METHODS = ["umap", "tsne", "pca"] as const;

export interface ReduceConfig {
  embeddingDirs: readonly string[];
  output: string;
  method?: (typeof METHODS)[number];
  nComponents?: number;
  /** Most rows of each folder: a seeded uniform sample over all its shards. */
  maxSamples?: number | null;
  sampleSeed?: number;
  seed?: number;
  nNeighbors?: number;
  minDist?: number;
  metric?: "cosine" | "euclidean";
  perplexity?: number;
}

/** The sidecar: the original's keys, then what is needed to find full rows again. */
export interface ReduceSummary {
  method: string;
  n_components: number;
  n_samples: number;
  datasets: Record<string, number>;
  embedding_dirs: string[];
  seed: number;
  sample_seed: number;
  max_samples_per_dataset: number | null;
  metric: string;
  n_neighbors: number | null;
  min_dist: number | null;
  perplexity: number | null;
  embedding_dim: number;
  /** Share of the variance along each component, for pca. */
  explained_variance: number[] | null;
  seconds: number;
}

const TEXT_PREVIEW = 500;
/** More dimensions than this are cut by principal components before neighbours of many points are searched. */
const SEARCH_DIMS = 64;
const SEARCH_ROWS = 6_000;

interface Loaded {
  points: Points;
  text: string[];
  dataset: string[];
  rowIds: (bigint | null)[];
  shards: string[];
  shardRows: bigint[];
  extra: Map<string, unknown[]>;
  counts: Record<string, number>;
}

/** Reads, reduces, writes. `onProgress` is told the phase and how far it is. */
export async function reduceEmbeddings(
  given: ReduceConfig,
  onProgress: (phase: string, done: number, all: number) => void = () => undefined,
): Promise<{ summary: ReduceSummary; output: string; sidecar: string }> {
  const started = performance.now();
  const method = given.method ?? "umap";
  const components = given.nComponents ?? 2;
  const {
    sampleSeed = 42,
    seed = 42,
    nNeighbors = 15,
    minDist = 0.1,
    metric = "cosine",
    perplexity = 30,
  } = given;
  if (!METHODS.includes(method))
    throw misuse(RangeError, "ERR_OPTION_RANGE", "method", METHODS.join(", "), method);
  if (components !== 2 && components !== 3)
    throw misuse(RangeError, "ERR_OPTION_RANGE", "n_components", "2 or 3", components);
  if (metric !== "cosine" && metric !== "euclidean")
    throw misuse(RangeError, "ERR_OPTION_RANGE", "metric", "cosine or euclidean", metric);
  if (!(nNeighbors >= 2))
    throw misuse(RangeError, "ERR_OPTION_RANGE", "n_neighbors", "2 or more", nNeighbors);
  const loaded = await load(given.embeddingDirs, given.maxSamples ?? null, sampleSeed, (done, all) =>
    onProgress("read", done, all),
  );
  const { points } = loaded;
  if (metric === "cosine")
    for (let row = 0; row < points.rows; row++) normalizeRow(points.data, row * points.dim, points.dim);

  let coordinates: Float32Array;
  let width = components;
  let explained: number[] | null = null;
  if (method === "pca") {
    const result = principalComponents(points, components, seed);
    coordinates = result.scores;
    width = result.count;
    explained = result.variances.map((variance) => variance / (result.totalVariance || 1));
  } else {
    const searched = forSearch(points, seed);
    coordinates =
      method === "umap"
        ? umap(searched, {
            components,
            neighbours: nNeighbors,
            minDist,
            seed,
            metric,
            onProgress: (done, all) => onProgress("layout", done, all),
          })
        : tsne(searched, {
            components,
            perplexity,
            seed,
            onProgress: (done, all) => onProgress("layout", done, all),
          });
  }
  const axis = (c: number): number[] =>
    Array.from({ length: points.rows }, (_, row) =>
      c < width ? (coordinates[row * width + c] as number) : 0,
    );
  const extras = [...loaded.extra].map(([name, values]): [ScalarColumn, unknown[]] => [
    { name, type: inferType(values), nullable: true },
    values,
  ]);
  const required = (name: string, type: ScalarColumn["type"]): ScalarColumn => ({
    name,
    type,
    nullable: false,
  });
  const parts = encodeParquet(
    {
      columns: [
        required("x", "double"),
        required("y", "double"),
        ...(components === 3 ? [required("z", "double")] : []),
        required("text", "string"),
        required("dataset", "string"),
        { name: "row_id", type: "int64", nullable: true },
        required("shard", "string"),
        required("shard_row", "int64"),
        ...extras.map(([column]) => column),
      ],
      embedding: null,
    },
    {
      rows: points.rows,
      columns: [
        axis(0),
        axis(1),
        ...(components === 3 ? [axis(2)] : []),
        loaded.text,
        loaded.dataset,
        loaded.rowIds,
        loaded.shards,
        loaded.shardRows,
        ...extras.map(([column, values]) => values.map((value, row) => coerce(value, column, `row ${row}`))),
      ],
      embeddings: new Float32Array(0),
    },
    await pageCodec("zstd"),
  );
  const summary: ReduceSummary = {
    method,
    n_components: components,
    n_samples: points.rows,
    datasets: loaded.counts,
    embedding_dirs: given.embeddingDirs.map(String),
    seed,
    sample_seed: sampleSeed,
    max_samples_per_dataset: given.maxSamples ?? null,
    metric,
    n_neighbors: method === "umap" ? nNeighbors : null,
    min_dist: method === "umap" ? minDist : null,
    perplexity: method === "tsne" ? perplexity : null,
    embedding_dim: points.dim,
    explained_variance: explained,
    seconds: (performance.now() - started) / 1000,
  };
  const output = given.output;
  const sidecar = `${output.replace(/\.parquet$/i, "")}.json`;
  await writeFileAtomic(output, parts);
  await writeFileAtomic(sidecar, [`${JSON.stringify(summary, null, 2)}\n`]);
  return { summary, output, sidecar };
}

/** Fewer dimensions where the neighbours of many points are searched; exact where there are few. */
function forSearch(points: Points, seed: number): Points {
  if (points.rows <= SEARCH_ROWS || points.dim <= SEARCH_DIMS) return points;
  const { scores, count } = principalComponents(points, SEARCH_DIMS, seed);
  return { data: scores, rows: points.rows, dim: count };
}

/** Name of the data set a shard folder belongs to: `embeddings/{model}/{dataset}/{split}`. */
function datasetLabel(folder: string): string {
  const full = resolve(folder);
  return basename(dirname(dirname(dirname(full)))) === "embeddings"
    ? basename(dirname(full))
    : basename(full);
}

async function load(
  folders: readonly string[],
  most: number | null,
  seed: number,
  onProgress: (done: number, all: number) => void,
): Promise<Loaded> {
  const plans: { folder: string; label: string; shards: ShardFile[]; rows: number; take: number }[] = [];
  for (const folder of folders) {
    const shards = await listShards(folder);
    const rows = shards.reduce((sum, shard) => sum + shard.rows, 0);
    plans.push({ folder, label: datasetLabel(folder), shards, rows, take: Math.min(rows, most ?? rows) });
  }
  const labels = plans.map((plan) => plan.label);
  plans.forEach((plan, i) => {
    // Two splits of one data set are told apart.
    if (labels.filter((label) => label === labels[i]).length > 1)
      plan.label = `${plan.label}/${basename(resolve(plan.folder))}`;
  });
  const total = plans.reduce((sum, plan) => sum + plan.take, 0);
  const loaded: Loaded = {
    points: { data: new Float32Array(0), rows: 0, dim: 0 },
    text: [],
    dataset: [],
    rowIds: [],
    shards: [],
    shardRows: [],
    extra: new Map(),
    counts: {},
  };
  let dim = 0;
  let at = 0;
  for (const plan of plans) {
    const permutation = seededPermutation(Math.max(plan.rows, 1), seed);
    let first = 0;
    for (const shard of plan.shards) {
      const extras = shard.columns.filter((name) => !(RESERVED_COLUMNS as readonly string[]).includes(name));
      const columns = [
        "embedding",
        "text",
        ...(shard.columns.includes("row_id") ? ["row_id"] : []),
        ...extras,
      ];
      for await (const batch of readShard(shard.path, columns, { start: 0, end: shard.rows })) {
        batch.rows.forEach((row, i) => {
          const inShard = batch.first + i;
          if (plan.take < plan.rows && permutation.forward(first + inShard) >= plan.take) return;
          const vector = row.embedding as number[] | Uint16Array;
          if (dim === 0) {
            dim = vector.length;
            loaded.points = { data: new Float32Array(total * dim), rows: total, dim };
          }
          if (vector.length !== dim) {
            throw new DataError(
              "ERR_EMBEDDING_WIDTH",
              `${shard.path} has vectors of ${vector.length} numbers, the first ones had ${dim}`,
              {
                details: { shard: shard.path, expected: dim, got: vector.length },
                remedies: ["reduce embeddings of one model at a time"],
              },
            );
          }
          loaded.points.data.set(
            vector instanceof Uint16Array ? Float32Array.from(vector, fromHalf) : vector,
            at * dim,
          );
          const text = typeof row.text === "string" ? row.text : String(row.text ?? "");
          loaded.text.push(text.length > TEXT_PREVIEW ? `${text.slice(0, TEXT_PREVIEW)}…` : text);
          loaded.dataset.push(plan.label);
          loaded.rowIds.push(typeof row.row_id === "bigint" ? row.row_id : null);
          loaded.shards.push(join(plan.folder, basename(shard.path)));
          loaded.shardRows.push(BigInt(inShard));
          for (const name of extras) {
            const values = loaded.extra.get(name) ?? new Array<unknown>(at).fill(null);
            loaded.extra.set(name, values);
            values.push(row[name] ?? null);
          }
          at++;
        });
        onProgress(at, total);
      }
      first += shard.rows;
    }
    loaded.counts[plan.label] = plan.take;
    for (const values of loaded.extra.values()) while (values.length < at) values.push(null);
  }
  return loaded;
}
