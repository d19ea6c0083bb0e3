// SPDX-License-Identifier: Apache-2.0
// The declared schema of a shard: the same for every shard of a run, whatever its rows hold.

import { DataError, describe } from "../../errors.ts";

/** How a scalar column is stored. "json" is text that holds one JSON value (nested source columns). */
export type ScalarType = "string" | "int64" | "double" | "bool" | "json";

/** Element type of the embedding column. */
export type EmbeddingType = "float32" | "float16";

export interface ScalarColumn {
  name: string;
  type: ScalarType;
  nullable: boolean;
}

/** A table with scalar columns and, in shards, one column of vectors of one length. */
export interface ShardSchema {
  columns: readonly ScalarColumn[];
  embedding: { name: string; dim: number; type: EmbeddingType } | null;
}

/** Names a shard always has, in this order, after the source columns asked for. */
export const RESERVED_COLUMNS = ["row_id", "text", "model", "created_at", "run_id", "embedding"] as const;

/** The schema of a run's shards: source columns first, then the reserved ones. */
export function shardSchema(
  sourceColumns: readonly ScalarColumn[],
  dim: number,
  type: EmbeddingType,
): ShardSchema {
  for (const column of sourceColumns) {
    if ((RESERVED_COLUMNS as readonly string[]).includes(column.name)) {
      throw new DataError(
        "ERR_COLUMN_RESERVED",
        `The source column ${describe(column.name)} has the name of a column that every shard has`,
        {
          details: { column: column.name, reserved: [...RESERVED_COLUMNS] },
          remedies: ["leave it out of --columns"],
        },
      );
    }
  }
  return {
    columns: [
      ...sourceColumns,
      { name: "row_id", type: "int64", nullable: false },
      { name: "text", type: "string", nullable: false },
      { name: "model", type: "string", nullable: false },
      { name: "created_at", type: "string", nullable: false },
      { name: "run_id", type: "string", nullable: false },
    ],
    embedding: { name: "embedding", dim, type },
  };
}

/** A value of a source row in the column's declared type; throws ERR_COLUMN_TYPE where it does not fit. */
export function coerce(
  value: unknown,
  column: ScalarColumn,
  where: string,
): string | number | bigint | boolean | null {
  if (value === null || value === undefined) {
    if (column.nullable) return null;
    throw typeError(value, column, where);
  }
  switch (column.type) {
    case "json":
      return JSON.stringify(value, jsonReplacer);
    case "string":
      if (typeof value === "string") return value;
      if (value instanceof Date) return value.toISOString();
      break;
    case "bool":
      if (typeof value === "boolean") return value;
      break;
    case "int64":
      if (typeof value === "bigint") return value;
      if (typeof value === "number" && Number.isSafeInteger(value)) return BigInt(value);
      break;
    case "double":
      if (typeof value === "number") return value;
      if (typeof value === "bigint") return Number(value);
      break;
  }
  throw typeError(value, column, where);
}

function typeError(value: unknown, column: ScalarColumn, where: string): DataError {
  return new DataError(
    "ERR_COLUMN_TYPE",
    `${where}: column ${describe(column.name)} was declared ${column.type}${column.nullable ? " or null" : ""}, got ${describe(value)}`,
    {
      details: { where, column: column.name, type: column.type },
      remedies: [`ask for it as JSON: --columns ${column.name}:json`],
    },
  );
}

/** JSON of the values that readers hand out: bigints and dates as text, bytes as base64. */
export function jsonReplacer(this: unknown, _key: string, value: unknown): unknown {
  if (typeof value === "bigint")
    return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  return value;
}

/** The narrowest declared type that holds every value given; nested or mixed values become JSON. */
export function inferType(values: Iterable<unknown>): ScalarType {
  let seen: ScalarType | null = null;
  for (const value of values) {
    if (value === null || value === undefined) continue;
    let type: ScalarType;
    if (typeof value === "string" || value instanceof Date) type = "string";
    else if (typeof value === "boolean") type = "bool";
    else if (typeof value === "bigint") type = "int64";
    else if (typeof value === "number") type = Number.isSafeInteger(value) ? "int64" : "double";
    else return "json";
    if (seen === null || seen === type) seen = type;
    else if ((seen === "int64" && type === "double") || (seen === "double" && type === "int64"))
      seen = "double";
    else return "json";
  }
  return seen ?? "json";
}
