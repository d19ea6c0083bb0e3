// SPDX-License-Identifier: Apache-2.0
// Reads shards back: ours, and those the Python chatspace wrote (lists of doubles).

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { DataError } from "../../errors.ts";
import { byCodeUnit } from "../sources/formats.ts";
import { parquetColumns } from "../sources/parquet.ts";

const SLICE_ROWS = 4_096;

export interface ShardFile {
  path: string;
  rows: number;
  columns: string[];
}

/** Shards of a folder, in order, with their sizes. */
export async function listShards(folder: string): Promise<ShardFile[]> {
  const names = (await readdir(folder).catch(() => [] as string[])).filter((name) =>
    /^shard-.*\.parquet$/.test(name),
  );
  if (names.length === 0) {
    throw new DataError("ERR_SHARDS_MISSING", `${folder} holds no shards`, {
      details: { folder },
      remedies: ["name the folder with shard-00000.parquet in it: embeddings/MODEL/DATASET/SPLIT"],
    });
  }
  const shards: ShardFile[] = [];
  for (const name of names.sort(byCodeUnit)) {
    const path = join(folder, name);
    const metadata = await parquetMetadataAsync(await asyncBufferFromFile(path));
    shards.push({ path, rows: Number(metadata.num_rows), columns: parquetColumns(metadata) });
  }
  return shards;
}

/** Rows [start, end) of a shard with the columns named; slices keep the memory small. */
export async function* readShard(
  path: string,
  columns: readonly string[],
  range: { start: number; end: number },
): AsyncGenerator<{ first: number; rows: Record<string, unknown>[] }> {
  const file = await asyncBufferFromFile(path);
  const metadata = await parquetMetadataAsync(file);
  for (let start = range.start; start < range.end; start += SLICE_ROWS) {
    const rows = (await parquetReadObjects({
      file,
      metadata,
      columns: [...columns],
      rowStart: start,
      rowEnd: Math.min(start + SLICE_ROWS, range.end),
      compressors,
    })) as Record<string, unknown>[];
    yield { first: start, rows };
  }
}
