// SPDX-License-Identifier: Apache-2.0
// Which source row comes at which position of a run: the first maxRows in order, or a seeded permutation
// of all of them. A shard is a range of positions, so any machine can make any shard.

import { appendFile, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { asWriteError } from "../data/files.ts";
import { seededPermutation } from "../data/shuffle.ts";
import { countRows, readRows } from "../data/sources/rows.ts";
import { corruptRow, type DataSource, isFault, type RowOrFault } from "../data/sources/source.ts";

export interface SelectedRow {
  position: number;
  /** Number of the row in the data set, over all files. */
  rowId: number;
  file: string;
  row: RowOrFault;
}

export interface SelectionRequest {
  source: DataSource;
  columns: readonly string[] | null;
  /** Positions wanted, as ascending half-open ranges; a null end means to the end of the data. */
  ranges: readonly { start: number; end: number | null }[];
  maxRows: number | null;
  fileRows: readonly number[];
  shuffle: { seed: number; totalRows: number; spoolFolder: string } | null;
}

/** Rows at the positions wanted, ascending. Says by `onEnd` where the data ended, if it came to that. */
export async function* selectRows(
  request: SelectionRequest,
  onEnd: (positions: number) => void,
): AsyncGenerator<SelectedRow[]> {
  if (request.shuffle !== null) yield* shuffledRows(request, request.shuffle, onEnd);
  else yield* orderedRows(request, onEnd);
}

async function* orderedRows(
  { source, columns, ranges, maxRows, fileRows }: SelectionRequest,
  onEnd: (positions: number) => void,
): AsyncGenerator<SelectedRow[]> {
  for (const range of ranges) {
    const end = Math.min(range.end ?? Number.POSITIVE_INFINITY, maxRows ?? Number.POSITIVE_INFINITY);
    let at = range.start;
    if (at < end) {
      for await (const batch of readRows(source, range.start, columns, fileRows)) {
        const rows = batch.rows.slice(0, Math.max(0, end - batch.first));
        yield rows.map((row, i) => ({
          position: batch.first + i,
          rowId: batch.first + i,
          file: batch.file,
          row,
        }));
        at = batch.first + rows.length;
        if (at >= end) break;
      }
    }
    if (at < end) {
      // Nothing at all in a range that begins late: the data ended before it, and only counting says where.
      const total =
        at > range.start || at === 0 ? at : (await countRows(source)).reduce((sum, rows) => sum + rows, 0);
      onEnd(Math.min(total, maxRows ?? total));
      return;
    }
    if (maxRows !== null && end === maxRows) onEnd(maxRows);
  }
}

/** Rows in one bucket of the external shuffle. */
const BUCKET_ROWS = 65_536;
const MOST_BUCKETS = 512;
const FLUSH_BYTES = 1 << 18;

/**
 * One pass over the source puts each wanted row into the bucket of its position, a second one reads the
 * buckets in order. Memory holds one bucket.
 */
async function* shuffledRows(
  { source, columns, ranges, maxRows, fileRows }: SelectionRequest,
  shuffle: { seed: number; totalRows: number; spoolFolder: string },
  onEnd: (positions: number) => void,
): AsyncGenerator<SelectedRow[]> {
  const total = Math.min(shuffle.totalRows, maxRows ?? Number.POSITIVE_INFINITY);
  const wanted = ranges
    .map(({ start, end }) => ({ start, end: Math.min(end ?? total, total) }))
    .filter((r) => r.start < r.end);
  const permutation = seededPermutation(shuffle.totalRows, shuffle.seed);
  const bucketRows = Math.max(BUCKET_ROWS, Math.ceil(total / MOST_BUCKETS));
  const folder = join(shuffle.spoolFolder, `shuffle-${process.pid}`);
  await dropStaleSpools(shuffle.spoolFolder);
  await mkdir(folder, { recursive: true });
  try {
    const pending = new Map<number, { parts: Buffer[]; bytes: number }>();
    const flush = async (bucket: number): Promise<void> => {
      const held = pending.get(bucket);
      if (held === undefined) return;
      pending.delete(bucket);
      const path = join(folder, String(bucket));
      await appendFile(path, Buffer.concat(held.parts)).catch((error: unknown) => {
        throw asWriteError(error, path);
      });
    };
    const missing = wanted.reduce((sum, range) => sum + range.end - range.start, 0);
    let found = 0;
    for await (const batch of readRows(source, 0, columns, fileRows)) {
      if (found === missing) break;
      for (const [i, row] of batch.rows.entries()) {
        const rowId = batch.first + i;
        if (rowId >= shuffle.totalRows) break;
        const position = permutation.forward(rowId);
        if (!wanted.some((range) => position >= range.start && position < range.end)) continue;
        found++;
        const record = serialize({
          position,
          rowId,
          file: batch.file,
          ...(isFault(row) ? { fault: row.fault.message } : { row }),
        });
        const bucket = Math.floor(position / bucketRows);
        const held = pending.get(bucket) ?? { parts: [], bytes: 0 };
        pending.set(bucket, held);
        const size = Buffer.alloc(4);
        size.writeUInt32LE(record.byteLength, 0);
        held.parts.push(size, record);
        held.bytes += record.byteLength + 4;
        if (held.bytes >= FLUSH_BYTES) await flush(bucket);
      }
    }
    for (const bucket of [...pending.keys()]) await flush(bucket);
    const buckets = (await readdir(folder)).map(Number).sort((a, b) => a - b);
    for (const bucket of buckets) {
      const rows = decodeBucket(await readFile(join(folder, String(bucket))));
      await rm(join(folder, String(bucket)));
      for (let start = 0; start < rows.length; start += 1024) yield rows.slice(start, start + 1024);
    }
    onEnd(total);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function decodeBucket(bytes: Buffer): SelectedRow[] {
  const rows: SelectedRow[] = [];
  for (let at = 0; at < bytes.byteLength; ) {
    const size = bytes.readUInt32LE(at);
    const record = deserialize(bytes.subarray(at + 4, at + 4 + size)) as SelectedRow & { fault?: string };
    rows.push(
      record.fault === undefined
        ? record
        : { ...record, row: corruptRow(record.file, record.rowId, record.fault) },
    );
    at += 4 + size;
  }
  return rows.sort((a, b) => a.position - b.position);
}

/** Removes what killed processes left. */
async function dropStaleSpools(folder: string): Promise<void> {
  const entries = await readdir(folder).catch(() => [] as string[]);
  for (const entry of entries) {
    const pid = Number(/^shuffle-(\d+)$/.exec(entry)?.[1] ?? Number.NaN);
    if (Number.isNaN(pid) || pid === process.pid) continue;
    try {
      process.kill(pid, 0);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ESRCH")
        await rm(join(folder, entry), { recursive: true, force: true });
    }
  }
}
