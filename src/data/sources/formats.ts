// SPDX-License-Identifier: Apache-2.0
// Which reader a file name asks for, and which files of a data set belong to a split.

import { DataError } from "../../errors.ts";
import { arrowReader } from "./arrow.ts";
import { csvReader } from "./csv.ts";
import { jsonlReader, jsonReader, textReader } from "./jsonl.ts";
import { localParquetReader } from "./parquet.ts";
import type { FileReader, SourceFormat } from "./source.ts";

/** Endings by format, in the order of preference where a folder holds several kinds. */
const ENDINGS: readonly [SourceFormat, RegExp][] = [
  ["parquet", /\.parquet$/i],
  ["arrow", /\.(arrow|feather|ipc)$/i],
  ["jsonl", /\.(jsonl|ndjson)(\.gz|\.zst|\.zstd)?$/i],
  ["csv", /\.csv(\.gz|\.zst)?$/i],
  ["tsv", /\.tsv(\.gz|\.zst)?$/i],
  ["json", /\.json$/i],
  ["text", /\.(txt|text)(\.gz|\.zst)?$/i],
];

/** Files that describe a data set rather than hold its rows. */
const NOT_DATA = /(^|\/)(dataset_infos?|state|config|package(-lock)?|README|LICENSE|SOURCE|NOTICE)\.[a-z]+$/i;

/** Words that name a split in file and folder names. */
const SPLIT_WORDS = ["train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"];
const SAME_SPLIT: Record<string, string[]> = {
  train: ["train", "training"],
  test: ["test", "testing", "eval"],
  validation: ["validation", "valid", "val", "dev"],
  valid: ["validation", "valid", "val", "dev"],
  dev: ["validation", "valid", "val", "dev"],
};

export function formatOf(name: string): SourceFormat | null {
  return ENDINGS.find(([, ending]) => ending.test(name))?.[0] ?? null;
}

function names(path: string, word: string): boolean {
  return new RegExp(`(^|[^a-z])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}([^a-z]|$)`, "i").test(path);
}

/**
 * Chooses the data files of a subset and split by the naming the hub uses (`train-00000-of-00002.parquet`,
 * `data/test/*.jsonl`, `subset/validation.csv`). Where no file names any split, all belong to "train".
 */
export function chooseFiles(
  all: readonly string[],
  wanted: { subset: string | null; split: string; where: string },
): { format: SourceFormat; files: string[] } {
  const data = all.filter((name) => formatOf(name) !== null && !NOT_DATA.test(name));
  if (data.length === 0) {
    throw new DataError("ERR_SOURCE_EMPTY", `${wanted.where} holds no file that can be read as a data set`, {
      details: { where: wanted.where, files: all.slice(0, 20) },
      remedies: ["give parquet, arrow, jsonl(.gz, .zst), csv, tsv, json or txt files"],
    });
  }
  const subset = wanted.subset;
  const ofSubset =
    subset === null ? data : data.filter((name) => name.split("/").includes(subset) || names(name, subset));
  if (ofSubset.length === 0) {
    throw new DataError("ERR_SUBSET_NOT_FOUND", `${wanted.where} has no files of the subset ${subset}`, {
      details: { subset, files: data.slice(0, 20) },
      remedies: ["name one of its folders by --subset", "leave out --subset"],
    });
  }
  const words = SAME_SPLIT[wanted.split] ?? [wanted.split];
  let chosen = ofSubset.filter((name) => words.some((word) => names(name, word)));
  if (chosen.length === 0) {
    const anySplit = ofSubset.some((name) => SPLIT_WORDS.some((word) => names(name, word)));
    if (anySplit || wanted.split !== "train") {
      throw new DataError(
        "ERR_SPLIT_NOT_FOUND",
        `${wanted.where} has no files of the split ${wanted.split}`,
        {
          details: { split: wanted.split, files: ofSubset.slice(0, 20) },
          remedies: ["name another --split", "give the files themselves: --dataset 'folder/*.jsonl'"],
        },
      );
    }
    chosen = ofSubset;
  }
  for (const [format] of ENDINGS) {
    const files = chosen.filter((name) => formatOf(name) === format);
    if (files.length > 0) return { format, files: files.sort(byCodeUnit) };
  }
  throw new Error("unreachable: every chosen file has a format");
}

/** The same order on every machine and locale. */
export function byCodeUnit(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The reader of a file on this machine. */
export function readerOf(format: SourceFormat, path: string, name: string): FileReader {
  switch (format) {
    case "parquet":
      return localParquetReader(path, name);
    case "arrow":
      return arrowReader(path, name);
    case "jsonl":
      return jsonlReader(path, name);
    case "json":
      return jsonReader(path, name);
    case "csv":
      return csvReader(path, name, ",");
    case "tsv":
      return csvReader(path, name, "\t");
    case "text":
      return textReader(path, name);
  }
}
