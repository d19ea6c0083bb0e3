// SPDX-License-Identifier: Apache-2.0
// Comma- and tab-separated values by RFC 4180: quotes, doubled quotes, line breaks inside quotes,
// LF and CRLF. The first record names the columns. Values are text: what looks like a number stays text.

import { fileBytes } from "./lines.ts";
import { corruptRow, type FileReader, type Row, type RowOrFault, unreadableFile } from "./source.ts";

/** Records of a file, one array per chunk. An unterminated quote at the end is marked by `null`. */
async function* records(path: string, name: string, delimiter: string): AsyncGenerator<(string[] | null)[]> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let fields: string[] = [];
  let field = "";
  let quoted = false;
  let closedQuote = false;
  let started = false;
  let first = true;

  const consume = (text: string): string[][] => {
    const done: string[][] = [];
    let i = 0;
    while (i < text.length) {
      if (quoted) {
        const quote = text.indexOf('"', i);
        if (quote === -1) {
          field += text.slice(i);
          return done;
        }
        field += text.slice(i, quote);
        quoted = false;
        closedQuote = true;
        i = quote + 1;
        continue;
      }
      const character = text[i] as string;
      if (character === '"' && (field === "" || closedQuote)) {
        // A quote right after a closing quote stands for one quote character.
        if (closedQuote) field += '"';
        quoted = true;
        closedQuote = false;
        started = true;
        i++;
      } else if (character === delimiter) {
        fields.push(field);
        field = "";
        closedQuote = false;
        started = true;
        i++;
      } else if (character === "\n") {
        if (field.endsWith("\r") && !closedQuote) field = field.slice(0, -1);
        if (started || field !== "") done.push([...fields, field]);
        fields = [];
        field = "";
        closedQuote = false;
        started = false;
        i++;
      } else if (character === "\r" && closedQuote) i++;
      else {
        let end = i + 1;
        while (end < text.length && text[end] !== delimiter && text[end] !== "\n" && text[end] !== '"') end++;
        field += text.slice(i, end);
        started = true;
        i = end;
      }
    }
    return done;
  };

  try {
    for await (const chunk of fileBytes(path, name)) {
      let text = decoder.decode(chunk, { stream: true });
      if (first && text.length > 0) {
        if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
        first = false;
      }
      const done = consume(text);
      if (done.length > 0) yield done;
    }
    const tail = decoder.decode();
    const done: (string[] | null)[] = consume(`${tail}\n`);
    if (quoted) done.push(null);
    if (done.length > 0) yield done;
  } catch (error) {
    if (error instanceof TypeError) throw unreadableFile(name, "is not UTF-8", error);
    throw error;
  }
}

/** A reader of delimited text with a header record. */
export function csvReader(path: string, name: string, delimiter: "," | "\t"): FileReader {
  const rows = async function* (
    from: number,
    columns: readonly string[] | null,
  ): AsyncGenerator<RowOrFault[]> {
    let header: string[] | null = null;
    let index = 0;
    for await (const batch of records(path, name, delimiter)) {
      const out: RowOrFault[] = [];
      for (const record of batch) {
        if (header === null) {
          if (record === null) throw unreadableFile(name, "a quote in the header is never closed");
          header = record;
          continue;
        }
        const at = index++;
        if (at < from) continue;
        if (record === null) out.push(corruptRow(name, at, "a quote is opened and never closed"));
        else if (record.length !== header.length)
          out.push(corruptRow(name, at, `expected ${header.length} fields, got ${record.length}`));
        else {
          const row: Row = {};
          for (const [i, column] of header.entries())
            if (columns === null || columns.includes(column)) row[column] = record[i];
          out.push(row);
        }
      }
      if (out.length > 0) yield out;
    }
  };
  return {
    read: rows,
    async count() {
      let total = 0;
      for await (const batch of rows(0, [])) total += batch.length;
      return total;
    },
  };
}
