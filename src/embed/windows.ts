// SPDX-License-Identifier: Apache-2.0
// Selected rows become windows: pieces of one shard that are tokenised, sorted and encoded together.
// Where a window ends depends on the rows alone.

import { firstAssistantTurn } from "../data/conversation.ts";
import { coerce, jsonReplacer, type ScalarColumn } from "../data/shards/schema.ts";
import { isFault, type Row } from "../data/sources/source.ts";
import { DataError } from "../errors.ts";
import type { ResolvedConfig } from "./config.ts";
import type { SelectedRow } from "./selection.ts";

/** A window also ends at so many characters, so that huge rows cannot fill the memory. */
const WINDOW_CHARACTERS = 16 << 20;

export interface WindowRows {
  rowIds: number[];
  texts: string[];
  /** One array per declared source column. */
  columns: (string | number | bigint | boolean | null)[][];
}

export interface Window extends WindowRows {
  shard: number;
  /** Number of the window in its shard. */
  window: number;
  /** The shard's last window; then `positions` and `skipped` count the whole shard. */
  last: boolean;
  positions: number;
  skipped: Record<string, number>;
}

type WindowSettings = Pick<
  ResolvedConfig,
  "rowsPerShard" | "windowRows" | "textField" | "extractFirstAssistant" | "onError"
>;

/** Cuts rows into windows. Every shard touched ends with a window marked `last`, if need be an empty one. */
export class WindowCutter {
  readonly #settings: WindowSettings;
  readonly #columns: readonly ScalarColumn[];
  #shard = -1;
  #window = 0;
  #positions = 0;
  #skipped: Record<string, number> = {};
  #rows: WindowRows;
  #characters = 0;

  constructor(settings: WindowSettings, columns: readonly ScalarColumn[]) {
    this.#settings = settings;
    this.#columns = columns;
    this.#rows = this.#empty();
  }

  #empty(): WindowRows {
    return { rowIds: [], texts: [], columns: this.#columns.map(() => []) };
  }

  /** Shard a row belongs to. */
  shardOf(position: number): number {
    return Math.floor(position / this.#settings.rowsPerShard);
  }

  /** Takes the next row; gives the windows that it completed. */
  push(selected: SelectedRow): Window[] {
    const done: Window[] = [];
    const shard = this.shardOf(selected.position);
    if (shard !== this.#shard) {
      done.push(...this.finish());
      this.#shard = shard;
    }
    this.#positions++;
    const { windowRows } = this.#settings;
    if (this.#rows.texts.length >= windowRows || this.#characters >= WINDOW_CHARACTERS)
      done.push(this.#cut({ last: false }));
    try {
      this.#add(selected);
    } catch (error) {
      if (this.#settings.onError === "fail" || !(error instanceof DataError)) throw error;
      this.#skip("corrupt");
    }
    return done;
  }

  #skip(reason: string): void {
    this.#skipped[reason] = (this.#skipped[reason] ?? 0) + 1;
  }

  #add({ row, rowId, file }: SelectedRow): void {
    if (isFault(row)) throw row.fault;
    const where = `${file}, row ${rowId} of the data set`;
    const text = this.#text(row, where);
    if (text === null) {
      this.#skip("no_assistant_turn");
      return;
    }
    if (text.trim() === "") {
      this.#skip("empty");
      return;
    }
    const values = this.#columns.map((column) => coerce(row[sourceName(column.name)], column, where));
    this.#rows.rowIds.push(rowId);
    this.#rows.texts.push(text);
    values.forEach((value, i) => {
      this.#rows.columns[i]?.push(value);
    });
    this.#characters += text.length;
  }

  #text(row: Row, where: string): string | null {
    const value = row[this.#settings.textField];
    if (value === null || value === undefined) return this.#settings.extractFirstAssistant ? null : "";
    if (this.#settings.extractFirstAssistant) return firstAssistantTurn(value, where);
    return typeof value === "string"
      ? value
      : typeof value === "object"
        ? JSON.stringify(value, jsonReplacer)
        : String(value);
  }

  #cut({ last }: { last: boolean }): Window {
    const window: Window = {
      ...this.#rows,
      shard: this.#shard,
      window: this.#window++,
      last,
      positions: this.#positions,
      skipped: this.#skipped,
    };
    this.#rows = this.#empty();
    this.#characters = 0;
    return window;
  }

  /** Ends the shard that is open. */
  finish(): Window[] {
    if (this.#shard === -1) return [];
    const window = this.#cut({ last: true });
    this.#shard = -1;
    this.#window = 0;
    this.#positions = 0;
    this.#skipped = {};
    return [window];
  }
}

const ORIGINAL = "_original_";

/** Name a source column has in shards: the conversation that text was taken from is kept as `_original_x`. */
export function shardName(
  column: string,
  settings: Pick<ResolvedConfig, "textField" | "extractFirstAssistant">,
): string {
  return settings.extractFirstAssistant && column === settings.textField ? ORIGINAL + column : column;
}

function sourceName(column: string): string {
  return column.startsWith(ORIGINAL) ? column.slice(ORIGINAL.length) : column;
}
