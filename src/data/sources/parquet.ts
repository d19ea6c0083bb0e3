// SPDX-License-Identifier: Apache-2.0
// Parquet sources: one row group at a time, and of it only the columns needed.

import {
  type AsyncBuffer,
  asyncBufferFromFile,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { type FileReader, type Row, unreadableFile } from "./source.ts";

/** Rows decoded at a time; a row group may hold a million. */
const SLICE_ROWS = 8_192;

/** Top-level column names of a file. */
export function parquetColumns(metadata: FileMetaData): string[] {
  const names: string[] = [];
  let at = 1;
  const skip = (): void => {
    const element = metadata.schema[at++];
    for (let child = 0; child < (element?.num_children ?? 0); child++) skip();
  };
  for (let i = 0; i < (metadata.schema[0]?.num_children ?? 0); i++) {
    names.push(metadata.schema[at]?.name ?? "");
    skip();
  }
  return names;
}

/** A reader of a Parquet file, on disk or behind ranged requests. */
export function parquetReader(name: string, openFile: () => Promise<AsyncBuffer>): FileReader {
  let opened: Promise<{ file: AsyncBuffer; metadata: FileMetaData }> | null = null;
  const open = (): Promise<{ file: AsyncBuffer; metadata: FileMetaData }> => {
    opened ??= (async () => {
      const file = await openFile();
      try {
        return { file, metadata: await parquetMetadataAsync(file) };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== undefined) throw error;
        throw unreadableFile(name, `is not a complete Parquet file (${(error as Error).message})`, error);
      }
    })();
    return opened;
  };
  return {
    count: async () => Number((await open()).metadata.num_rows),
    async *read(from, columns) {
      const { file, metadata } = await open();
      const present = parquetColumns(metadata);
      const wanted = columns === null ? present : present.filter((column) => columns.includes(column));
      let groupStart = 0;
      for (const group of metadata.row_groups) {
        const groupEnd = groupStart + Number(group.num_rows);
        for (let start = Math.max(groupStart, from); start < groupEnd; start += SLICE_ROWS) {
          const end = Math.min(start + SLICE_ROWS, groupEnd);
          if (wanted.length === 0) {
            yield Array.from({ length: end - start }, (): Row => ({}));
            continue;
          }
          try {
            yield (await parquetReadObjects({
              file,
              metadata,
              columns: wanted,
              rowStart: start,
              rowEnd: end,
              compressors,
              useOffsetIndex: true,
            })) as Row[];
          } catch (error) {
            if ((error as { code?: string }).code !== undefined) throw error;
            throw unreadableFile(
              name,
              `rows ${start} to ${end} cannot be decoded (${(error as Error).message})`,
              error,
            );
          }
        }
        groupStart = groupEnd;
      }
    },
  };
}

/** A Parquet file on this machine. */
export function localParquetReader(path: string, name: string): FileReader {
  return parquetReader(name, () => asyncBufferFromFile(path));
}
