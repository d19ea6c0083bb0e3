// SPDX-License-Identifier: Apache-2.0
// The rows of a whole source in reading order, from any position on, and their number.

import { DataError } from "../../errors.ts";
import type { DataSource, RowOrFault } from "./source.ts";

/** A run of consecutive rows: global number of the first one, and the file they come from. */
export interface RowBatch {
  first: number;
  file: string;
  rows: RowOrFault[];
}

/** Number of rows of each file. Reads footers of Parquet files, and other files whole. */
export async function countRows(source: DataSource): Promise<number[]> {
  const files = await source.files();
  const counts: number[] = [];
  for (let index = 0; index < files.length; index++) counts.push(await (await source.open(index)).count());
  return counts;
}

/**
 * Rows from global row `from` on. `known` holds row counts of files where they are known, so that whole
 * files before `from` are not opened.
 */
export async function* readRows(
  source: DataSource,
  from: number,
  columns: readonly string[] | null,
  known: readonly number[] = [],
): AsyncGenerator<RowBatch> {
  const files = await source.files();
  let first = 0;
  for (let index = 0; index < files.length; index++) {
    const file = files[index] as (typeof files)[number];
    const count = known[index];
    if (count !== undefined && first + count <= from) {
      first += count;
      continue;
    }
    const reader = await source.open(index);
    let at = first;
    if (from > first) {
      // Of the last file nothing is gained by counting first: what is skipped is read once either way.
      const last = index === files.length - 1;
      const rows = count ?? (last ? Number.POSITIVE_INFINITY : await reader.count());
      if (first + rows <= from) {
        first += rows;
        continue;
      }
      at = from;
    }
    for await (const rows of reader.read(at - first, columns)) {
      yield { first: at, file: file.name, rows };
      at += rows.length;
    }
    first = at;
  }
}

/** Refuses a text column that no row has, with the columns that are there. */
export function missingColumn(column: string, present: readonly string[]): DataError {
  return new DataError("ERR_TEXT_FIELD", `The data set has no column ${JSON.stringify(column)}`, {
    details: { column, present: [...present] },
    remedies: [`name one of its columns by --text-field: ${present.join(", ")}`],
  });
}
