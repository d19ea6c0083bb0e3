// SPDX-License-Identifier: Apache-2.0
// A shard as a Parquet file. Written here rather than by a general writer, because the embedding column
// is a block of floats whose bytes go straight to disk, and because the same rows must always give the
// same bytes.

import { encodedArrowSchema } from "./arrow-schema.ts";
import type { PageCodec } from "./compression.ts";
import { type ChunkBytes, scalarChunk, vectorChunk } from "./parquet-pages.ts";
import type { ScalarColumn, ShardSchema } from "./schema.ts";
import { ThriftWriter } from "./thrift.ts";

/** The rows of one shard, column by column. */
export interface ShardTable {
  rows: number;
  /** One array per schema column, in its order. */
  columns: (readonly (string | number | bigint | boolean | null)[])[];
  /** [rows, dim] row-major: Float32Array, or half floats as Uint16Array. */
  embeddings: Float32Array | Uint16Array;
}

const MAGIC = Buffer.from("PAR1");
/** Rows of one row group; a reader of a part of a big shard does not have to take it all. */
const ROW_GROUP_ROWS = 16_384;
const Physical = { boolean: 0, int64: 2, float: 4, double: 5, bytes: 6, fixed: 7 } as const;

interface ColumnPlan {
  path: string[];
  physical: number;
  encode(start: number, end: number): ChunkBytes;
  /** Smallest and largest value of the rows, where that is known and useful (row_id). */
  bounds(start: number, end: number): { min: Buffer; max: Buffer } | null;
  nulls(start: number, end: number): number;
}

/** Encodes a shard; the parts together are the file. Deterministic in (schema, table, codec, metadata). */
export function encodeParquet(
  schema: ShardSchema,
  table: ShardTable,
  codec: PageCodec,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array[] {
  const plans = columnPlans(schema, table, codec);
  const parts: Uint8Array[] = [MAGIC];
  let offset = MAGIC.byteLength;
  const groups: {
    rows: number;
    start: number;
    columns: { plan: ColumnPlan; chunk: ChunkBytes; offset: number }[];
  }[] = [];
  for (let start = 0; start === 0 || start < table.rows; start += ROW_GROUP_ROWS) {
    const end = Math.min(start + ROW_GROUP_ROWS, table.rows);
    const columns = plans.map((plan) => {
      const chunk = plan.encode(start, end);
      const at = offset;
      parts.push(...chunk.parts);
      offset += chunk.compressed;
      return { plan, chunk, offset: at };
    });
    groups.push({ rows: end - start, start, columns });
  }
  const keyValues = Object.entries({ ...metadata, "ARROW:schema": encodedArrowSchema(schema) });
  const footer = new ThriftWriter()
    .body((w) => {
      w.i32(1, 2);
      writeSchema(w, schema);
      w.i64(3, table.rows);
      w.structs(4, groups, (g, group) => {
        g.structs(1, group.columns, (c, { plan, chunk, offset: at }) => {
          c.i64(2, 0);
          c.struct(3, (m) => {
            m.i32(1, plan.physical).i32s(2, chunk.encodings).strings(3, plan.path).i32(4, codec.parquetCodec);
            m.i64(5, chunk.values).i64(6, chunk.uncompressed).i64(7, chunk.compressed).i64(9, at);
            const bounds = plan.bounds(group.start, group.start + group.rows);
            m.struct(12, (s) => {
              s.i64(3, plan.nulls(group.start, group.start + group.rows));
              if (bounds !== null) s.binary(5, bounds.max).binary(6, bounds.min);
            });
          });
        });
        g.i64(
          2,
          group.columns.reduce((sum, column) => sum + column.chunk.uncompressed, 0),
        );
        g.i64(3, group.rows);
        g.i64(5, group.columns[0]?.offset ?? 4);
        g.i64(
          6,
          group.columns.reduce((sum, column) => sum + column.chunk.compressed, 0),
        );
        g.i16(7, groups.indexOf(group));
      });
      w.structs(5, keyValues, (k, [key, value]) => k.binary(1, key).binary(2, value));
      w.binary(6, "chatspace-steer");
      w.structs(7, plans, (o) => o.struct(1, () => undefined));
    })
    .finish();
  const tail = Buffer.alloc(4);
  tail.writeUInt32LE(footer.byteLength, 0);
  parts.push(footer, tail, MAGIC);
  return parts;
}

function columnPlans(schema: ShardSchema, table: ShardTable, codec: PageCodec): ColumnPlan[] {
  const plans = schema.columns.map((column, index): ColumnPlan => {
    const values = table.columns[index] ?? [];
    const kind = physicalKind(column);
    return {
      path: [column.name],
      physical: kind === "bytes" ? Physical.bytes : kind === "bool" ? Physical.boolean : Physical[kind],
      encode: (start, end) => scalarChunk(values.slice(start, end), kind, column.nullable, codec),
      bounds: (start, end) =>
        column.name === "row_id" ? int64Bounds(values.slice(start, end) as bigint[]) : null,
      nulls: (start, end) => values.slice(start, end).filter((value) => value === null).length,
    };
  });
  if (schema.embedding === null) return plans;
  const { name, dim, type } = schema.embedding;
  const elementBytes = type === "float32" ? 4 : 2;
  const { buffer, byteOffset, byteLength } = table.embeddings;
  const bytes = new Uint8Array(buffer, byteOffset, byteLength);
  const rowBytes = dim * elementBytes;
  plans.push({
    path: [name, "list", "element"],
    physical: type === "float32" ? Physical.float : Physical.fixed,
    encode: (start, end) =>
      vectorChunk(bytes.subarray(start * rowBytes, end * rowBytes), dim, elementBytes, codec),
    bounds: () => null,
    nulls: () => 0,
  });
  return plans;
}

function physicalKind(column: ScalarColumn): "int64" | "double" | "bool" | "bytes" {
  return column.type === "string" || column.type === "json" ? "bytes" : column.type;
}

function int64Bounds(values: readonly bigint[]): { min: Buffer; max: Buffer } | null {
  if (values.length === 0) return null;
  let low = values[0] as bigint;
  let high = low;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const min = Buffer.alloc(8);
  min.writeBigInt64LE(low);
  const max = Buffer.alloc(8);
  max.writeBigInt64LE(high);
  return { min, max };
}

function writeSchema(w: ThriftWriter, schema: ShardSchema): void {
  const { columns, embedding } = schema;
  const elements: ((e: ThriftWriter) => void)[] = [
    (e) => e.binary(4, "schema").i32(5, columns.length + (embedding === null ? 0 : 1)),
    ...columns.map((column) => (e: ThriftWriter) => {
      const kind = physicalKind(column);
      e.i32(1, kind === "bytes" ? Physical.bytes : kind === "bool" ? Physical.boolean : Physical[kind]);
      e.i32(3, column.nullable ? 1 : 0).binary(4, column.name);
      if (kind === "bytes") e.i32(6, 0).struct(10, (l) => l.struct(1, () => undefined));
    }),
  ];
  if (embedding !== null) {
    const half = embedding.type === "float16";
    elements.push(
      (e) =>
        e
          .i32(3, 0)
          .binary(4, embedding.name)
          .i32(5, 1)
          .i32(6, 3)
          .struct(10, (l) => l.struct(3, () => undefined)),
      (e) => e.i32(3, 2).binary(4, "list").i32(5, 1),
      (e) => {
        e.i32(1, half ? Physical.fixed : Physical.float);
        if (half) e.i32(2, 2);
        e.i32(3, 0).binary(4, "element");
        if (half) e.struct(10, (l) => l.struct(15, () => undefined));
      },
    );
  }
  w.structs(2, elements, (e, write) => write(e));
}
