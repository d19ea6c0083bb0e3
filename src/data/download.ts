// SPDX-License-Identifier: Apache-2.0
// download-dataset: fetches the files of a data set (or looks at local ones) and writes down what it is.

import { join } from "node:path";
import { writeFileAtomic } from "./files.ts";
import { sanitizeComponent } from "./names.ts";
import { inferType } from "./shards/schema.ts";
import { datasetName, openDataset } from "./sources/open.ts";
import { countRows, readRows } from "./sources/rows.ts";
import { isFault, type Row, type SourceFile } from "./sources/source.ts";

export interface DownloadRequest {
  name: string;
  subset: string | null;
  split: string;
  revision: string;
  outputRoot: string;
}

/** dataset.json: the original's keys, then what it did not keep. */
export interface DatasetDescription {
  dataset: string;
  source: string;
  split: string;
  created_at: string;
  num_rows: number;
  /** Column names and the type their values have in the first thousand rows. */
  features: Record<string, string>;
  note: string;
  subset: string | null;
  revision: string | null;
  format: string;
  files: (SourceFile & { rows: number })[];
}

const SAMPLE_ROWS = 1_000;

/** Fetches and describes; returns the description and where it was written. */
export async function downloadDataset(
  request: DownloadRequest,
): Promise<{ description: DatasetDescription; path: string }> {
  const source = await openDataset({
    dataset: request.name,
    subset: request.subset,
    split: request.split,
    revision: request.revision,
    cacheFolder: join(request.outputRoot, "cache"),
  });
  const rows = await countRows(source);
  const sample: Row[] = [];
  for await (const batch of readRows(source, 0, null)) {
    for (const row of batch.rows) if (!isFault(row)) sample.push(row);
    if (sample.length >= SAMPLE_ROWS) break;
  }
  const columns = [...new Set(sample.flatMap((row) => Object.keys(row)))];
  const label = source.kind === "hub" ? "huggingface" : "local";
  const name = await datasetName(request.name);
  const files = await source.files();
  const description: DatasetDescription = {
    dataset: name,
    source: label,
    split: request.split,
    created_at: new Date().toISOString(),
    num_rows: rows.reduce((sum, count) => sum + count, 0),
    features: Object.fromEntries(
      columns.map((column) => [column, inferType(sample.map((row) => row[column]))]),
    ),
    note: source.kind === "hub" ? "files lie under cache/hub" : "files stay where they are",
    subset: request.subset,
    revision: source.revision,
    format: source.format,
    files: files.map((file, i) => ({ ...file, rows: rows[i] ?? 0 })),
  };
  const folder = join(
    request.outputRoot,
    "datasets",
    "raw",
    label,
    sanitizeComponent(name),
    sanitizeComponent(request.split),
  );
  const path = join(folder, "dataset.json");
  await writeFileAtomic(path, [`${JSON.stringify(description, null, 2)}\n`]);
  return { description, path };
}
