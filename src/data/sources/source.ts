// SPDX-License-Identifier: Apache-2.0
// What a data set is to the pipeline: an ordered list of files, each a list of rows that can be read
// from any row on. Which rows a run reads is a function of the files and their hashes, nothing else.

import { DataError } from "../../errors.ts";

export type Row = Record<string, unknown>;

/** A row that could not be read; the reader goes on after it. */
export interface RowFault {
  fault: DataError;
}

export type RowOrFault = Row | RowFault;

export function isFault(row: RowOrFault): row is RowFault {
  return (row as RowFault).fault instanceof DataError;
}

export type SourceFormat = "parquet" | "arrow" | "jsonl" | "json" | "csv" | "tsv" | "text";

/** One file of a data set as the run's identity records it. JSON-safe. */
export interface SourceFile {
  /** Path relative to the data set's root, "/"-separated; what errors and the manifest name. */
  name: string;
  bytes: number;
  /** Of the file's content; a hub file has it from the hub where it is kept by LFS. */
  sha256: string;
}

/** Reads one file that lies on this machine. */
export interface FileReader {
  /** Number of rows; may read the whole file. */
  count(): Promise<number>;
  /** Rows from row `from` on, in batches, with only `columns` (null = all). A break stops the reading. */
  read(from: number, columns: readonly string[] | null): AsyncGenerator<RowOrFault[]>;
}

/** A data set whose files are known. */
export interface DataSource {
  kind: "local" | "hub";
  format: SourceFormat;
  /** Commit of a hub data set; null for local files. */
  revision: string | null;
  /** Files in reading order. */
  files(): Promise<SourceFile[]>;
  /** Makes file `index` local (a hub file is downloaded) and gives its reader. */
  open(index: number): Promise<FileReader>;
}

/** A source row that cannot be read, as a value to be skipped or thrown. */
export function corruptRow(file: string, row: number, why: string, cause?: unknown): RowFault {
  return {
    fault: new DataError("ERR_ROW_CORRUPT", `${file}, row ${row}: ${why}`, {
      details: { file, row },
      remedies: ["repair the row", "leave such rows out: --on-error skip (they are counted in rows_skipped)"],
      cause,
    }),
  };
}

/** A file that is not what its name says, as a whole. */
export function unreadableFile(file: string, why: string, cause?: unknown): DataError {
  return new DataError("ERR_SOURCE_UNREADABLE", `${file}: ${why}`, {
    details: { file },
    remedies: ["check that the file is complete and of the kind its ending says"],
    cause,
  });
}
