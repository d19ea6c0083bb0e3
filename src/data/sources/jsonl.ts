// SPDX-License-Identifier: Apache-2.0
// JSON lines and plain text: a row is a line.

import { readFile } from "node:fs/promises";
import { describe } from "../../errors.ts";
import { countLines, lineBatches, lineText } from "./lines.ts";
import { corruptRow, type FileReader, type Row, type RowOrFault, unreadableFile } from "./source.ts";

function pick(row: Row, columns: readonly string[] | null): Row {
  if (columns === null) return row;
  const out: Row = {};
  for (const column of columns) if (column in row) out[column] = row[column];
  return out;
}

function parsedRow(
  text: string | null,
  name: string,
  index: number,
  columns: readonly string[] | null,
): RowOrFault {
  if (text === null) return corruptRow(name, index, "the line is not UTF-8");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return corruptRow(name, index, `the line is not JSON (${(error as Error).message})`, error);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value))
    return corruptRow(name, index, `expected a JSON object, got ${describe(value)}`);
  return pick(value as Row, columns);
}

/** JSON lines, one object a line; .gz and .zst as well. */
export function jsonlReader(path: string, name: string): FileReader {
  return {
    count: () => countLines(path, name),
    async *read(from, columns) {
      let index = from;
      for await (const lines of lineBatches(path, name, from))
        yield lines.map((line) => parsedRow(lineText(line), name, index++, columns));
    },
  };
}

/** Plain text: a row per line, with the column "text"; empty lines are rows too. */
export function textReader(path: string, name: string): FileReader {
  return {
    count: () => countLines(path, name),
    async *read(from, columns) {
      let index = from;
      const wanted = columns === null || columns.includes("text");
      for await (const lines of lineBatches(path, name, from)) {
        yield lines.map((line): RowOrFault => {
          const text = lineText(line);
          const at = index++;
          if (text === null) return corruptRow(name, at, "the line is not UTF-8");
          return wanted ? { text } : {};
        });
      }
    },
  };
}

/** A JSON file that holds an array of objects, at the top or under "data" or "rows". Read whole. */
export function jsonReader(path: string, name: string): FileReader {
  const load = async (): Promise<unknown[]> => {
    let value: unknown;
    try {
      value = JSON.parse(await readFile(path, "utf8"));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") throw error;
      throw unreadableFile(name, `is not JSON (${(error as Error).message})`, error);
    }
    const inner = value as { data?: unknown; rows?: unknown } | null;
    for (const candidate of [value, inner?.data, inner?.rows]) if (Array.isArray(candidate)) return candidate;
    throw unreadableFile(name, 'expected an array of objects, at the top or under "data" or "rows"');
  };
  return {
    count: async () => (await load()).length,
    async *read(from, columns) {
      const rows = await load();
      yield rows.slice(from).map((value, i): RowOrFault => {
        if (typeof value === "string") return pick({ text: value }, columns);
        if (value === null || typeof value !== "object" || Array.isArray(value))
          return corruptRow(name, from + i, `expected an object, got ${describe(value)}`);
        return pick(value as Row, columns);
      });
    },
  };
}
