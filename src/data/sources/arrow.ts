// SPDX-License-Identifier: Apache-2.0
// Arrow IPC sources, stream and file form (`datasets` keeps its cache in the stream form).

import { open } from "node:fs/promises";
import { type FileReader, type Row, unreadableFile } from "./source.ts";

/** Plain values instead of Arrow's vectors and struct proxies. */
function plain(value: unknown): unknown {
  if (value === null || typeof value !== "object" || value instanceof Date || value instanceof Uint8Array)
    return value;
  if (ArrayBuffer.isView(value)) return Array.from(value as Float32Array);
  if (Symbol.iterator in value && "length" in value) return Array.from(value as Iterable<unknown>, plain);
  if ("toJSON" in value && typeof value.toJSON === "function") {
    const json = value.toJSON() as Record<string, unknown>;
    return Object.fromEntries(Object.entries(json).map(([key, inner]) => [key, plain(inner)]));
  }
  return value;
}

/** A reader of one .arrow / .feather (v2) / .ipc file. */
export function arrowReader(path: string, name: string): FileReader {
  const batches = async function* (): AsyncGenerator<{
    rows: number;
    column(name: string): (row: number) => unknown;
    names: string[];
  }> {
    // Loaded where it is needed: it takes longer to load than all other readers together.
    const { RecordBatchReader } = await import("apache-arrow");
    const handle = await open(path, "r");
    try {
      const reader = await RecordBatchReader.from(handle);
      await reader.open();
      for await (const batch of reader) {
        yield {
          rows: batch.numRows,
          names: batch.schema.fields.map((field) => field.name),
          column: (column) => {
            const vector = batch.getChild(column);
            return (row) => plain(vector?.get(row) ?? null);
          },
        };
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") throw error;
      throw unreadableFile(name, `is not readable Arrow IPC (${(error as Error).message})`, error);
    } finally {
      await handle.close().catch(() => undefined);
    }
  };
  return {
    async count() {
      let rows = 0;
      for await (const batch of batches()) rows += batch.rows;
      return rows;
    },
    async *read(from, columns) {
      let start = 0;
      for await (const batch of batches()) {
        const end = start + batch.rows;
        if (end > from) {
          const names =
            columns === null ? batch.names : batch.names.filter((column) => columns.includes(column));
          const getters = names.map((column) => [column, batch.column(column)] as const);
          const rows: Row[] = [];
          for (let row = Math.max(0, from - start); row < batch.rows; row++)
            rows.push(Object.fromEntries(getters.map(([column, get]) => [column, get(row)])));
          yield rows;
        }
        start = end;
      }
    },
  };
}
