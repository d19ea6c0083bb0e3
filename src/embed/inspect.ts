// SPDX-License-Identifier: Apache-2.0
// A look at the first rows of a source: is the text column there, and what types have the columns that
// are to be carried along. The answer is part of the run's identity, so that every shard has one schema.

import { inferType, type ScalarColumn, type ScalarType } from "../data/shards/schema.ts";
import { missingColumn, readRows } from "../data/sources/rows.ts";
import { type DataSource, isFault, type Row } from "../data/sources/source.ts";
import { describe, misuse } from "../errors.ts";
import type { ResolvedConfig } from "./config.ts";
import { shardName } from "./windows.ts";

const SAMPLE_ROWS = 1_000;
const TYPES: readonly ScalarType[] = ["string", "int64", "double", "bool", "json"];

/** Reads up to 1,000 rows; returns the declared source columns. */
export async function inspectColumns(source: DataSource, config: ResolvedConfig): Promise<ScalarColumn[]> {
  const sample: Row[] = [];
  for await (const batch of readRows(source, 0, null)) {
    for (const row of batch.rows) if (!isFault(row) && sample.length < SAMPLE_ROWS) sample.push(row);
    if (sample.length >= SAMPLE_ROWS) break;
  }
  const present = [...new Set(sample.flatMap((row) => Object.keys(row)))];
  if (sample.length > 0 && !present.includes(config.textField))
    throw missingColumn(config.textField, present);
  const asked = config.columns.includes("*")
    ? present
        .filter((name) => name !== config.textField || config.textField !== "text")
        .map((name) => ({ name, type: null }))
    : config.columns.map(parseColumn);
  return asked.map(({ name, type }) => {
    if (sample.length > 0 && !present.includes(name)) throw missingColumn(name, present);
    return {
      name: shardName(name, config),
      type: type ?? inferType(sample.map((row) => row[name])),
      nullable: true,
    };
  });
}

function parseColumn(text: string): { name: string; type: ScalarType | null } {
  const at = text.lastIndexOf(":");
  if (at === -1) return { name: text, type: null };
  const type = text.slice(at + 1) as ScalarType;
  if (!TYPES.includes(type))
    throw misuse(
      RangeError,
      "ERR_OPTION_RANGE",
      `type of column ${describe(text.slice(0, at))}`,
      TYPES.join(", "),
      type,
    );
  return { name: text.slice(0, at), type };
}
