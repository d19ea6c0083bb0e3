// SPDX-License-Identifier: Apache-2.0
// A file of reduced points as the page wants it: coordinates as one block, columns as numbers or codes.

import { asyncBufferFromFile, parquetMetadataAsync } from "hyparquet";
import { readShard } from "../../data/shards/reader.ts";
import { parquetColumns } from "../../data/sources/parquet.ts";
import { unreadableFile } from "../../data/sources/source.ts";
import { DataError } from "../../errors.ts";

export interface PointColumn {
  name: string;
  /** Numbers get a colour scale, codes a colour each. NaN = no value. */
  kind: "number" | "category";
  values: Float32Array;
  /** Names of the codes of a category. */
  labels: string[];
}

export interface PointSet {
  rows: number;
  dims: 2 | 3;
  /** [rows, 3] row-major; z is 0 in two dimensions. */
  positions: Float32Array;
  text: string[];
  ids: string[];
  columns: PointColumn[];
  /** Where the full row lies, where the file says so. */
  shards: (string | null)[];
  shardRows: number[];
}

const NOT_A_COLOUR = new Set(["x", "y", "z", "text", "row_id", "shard", "shard_row"]);
const MOST_CATEGORIES = 2_000;

/** Reads what reduce-embeddings wrote (or the Python chatspace's reduce_embeddings). */
export async function readPoints(path: string): Promise<PointSet> {
  let rows: number;
  let names: string[];
  try {
    const metadata = await parquetMetadataAsync(await asyncBufferFromFile(path));
    rows = Number(metadata.num_rows);
    names = parquetColumns(metadata);
  } catch (error) {
    throw unreadableFile(path, `is not a Parquet file of points (${(error as Error).message})`, error);
  }
  if (!names.includes("x") || !names.includes("y")) {
    throw new DataError("ERR_POINTS_COLUMNS", `${path} has no columns x and y`, {
      details: { path, columns: names },
      remedies: ["make it with reduce-embeddings"],
    });
  }
  const dims = names.includes("z") ? 3 : 2;
  const set: PointSet = {
    rows,
    dims,
    positions: new Float32Array(rows * 3),
    text: [],
    ids: [],
    columns: [],
    shards: [],
    shardRows: [],
  };
  const colours = names.filter((name) => !NOT_A_COLOUR.has(name));
  const raw = new Map<string, unknown[]>(colours.map((name) => [name, []]));
  let at = 0;
  for await (const batch of readShard(path, names, { start: 0, end: rows })) {
    for (const row of batch.rows) {
      set.positions.set([Number(row.x), Number(row.y), dims === 3 ? Number(row.z) : 0], at * 3);
      set.text.push(String(row.text ?? ""));
      set.ids.push(row.row_id === null || row.row_id === undefined ? String(at) : String(row.row_id));
      set.shards.push(typeof row.shard === "string" ? row.shard : null);
      set.shardRows.push(Number(row.shard_row ?? -1));
      for (const name of colours) raw.get(name)?.push(row[name]);
      at++;
    }
  }
  for (const [name, values] of raw) {
    const column = pointColumn(name, values);
    if (column !== null) set.columns.push(column);
  }
  return set;
}

function pointColumn(name: string, values: readonly unknown[]): PointColumn | null {
  const present = values.filter((value) => value !== null && value !== undefined);
  const distinct = new Set(present.map(String));
  const numeric = present.every((value) => typeof value === "number" || typeof value === "bigint");
  // A few whole numbers are labels; many are an amount.
  if (numeric && distinct.size > 12)
    return {
      name,
      kind: "number",
      labels: [],
      values: Float32Array.from(values, (v) => (v === null || v === undefined ? Number.NaN : Number(v))),
    };
  if (distinct.size > MOST_CATEGORIES) return null;
  const labels = [...distinct].sort();
  const codes = new Map(labels.map((label, code) => [label, code]));
  return {
    name,
    kind: "category",
    labels,
    values: Float32Array.from(values, (v) =>
      v === null || v === undefined ? Number.NaN : (codes.get(String(v)) ?? Number.NaN),
    ),
  };
}
