// SPDX-License-Identifier: Apache-2.0
// The Arrow schema that goes into a Parquet footer under "ARROW:schema". Parquet has no list of fixed
// length; Arrow readers take it from here, and so give the embedding back as fixed_size_list<float>[dim].

import {
  Bool,
  type DataType,
  Field,
  FixedSizeList,
  Float16,
  Float32,
  Float64,
  Int64,
  RecordBatchStreamWriter,
  Schema,
  Utf8,
} from "apache-arrow";
import type { ScalarType, ShardSchema } from "./schema.ts";

function scalar(type: ScalarType): DataType {
  switch (type) {
    case "int64":
      return new Int64();
    case "double":
      return new Float64();
    case "bool":
      return new Bool();
    default:
      return new Utf8();
  }
}

/** The Arrow form of a shard's schema. */
export function arrowSchema(schema: ShardSchema): Schema {
  const fields = schema.columns.map((column) => new Field(column.name, scalar(column.type), column.nullable));
  if (schema.embedding !== null) {
    const { name, dim, type } = schema.embedding;
    const element = new Field("element", type === "float32" ? new Float32() : new Float16(), false);
    fields.push(new Field(name, new FixedSizeList(dim, element), false));
  }
  return new Schema(fields);
}

/** Base64 of the encapsulated IPC schema message, as Arrow's own Parquet writers store it. */
export function encodedArrowSchema(schema: ShardSchema): string {
  const writer = new RecordBatchStreamWriter();
  writer.reset(undefined, arrowSchema(schema));
  writer.finish();
  const bytes = Buffer.from(writer.toUint8Array(true));
  // continuation marker, length of the message, message; what follows is the end-of-stream marker.
  const length = bytes.readInt32LE(4);
  return bytes.subarray(0, 8 + length).toString("base64");
}
