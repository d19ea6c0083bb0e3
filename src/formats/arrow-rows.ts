// SPDX-License-Identifier: Apache-2.0
// An Arrow IPC file that is written batch by batch: int32 columns and columns of fixed-size lists of
// floats. Only the footer's table of batches is held. Whole or absent, as RowsFile.

import { type FileHandle, rename, rm } from "node:fs/promises";
import type { RecordBatchFileWriter } from "apache-arrow";
import { openBeside, writeAll, writeError } from "./rows-file.ts";

export interface ArrowColumn {
  name: string;
  type: "int32" | "float32" | "float16";
  /** Values of a row's list; null = one plain value. */
  list: number | null;
}

/** Elements of a batch's column: float16 as bit patterns. */
export type ArrowValues = Int32Array | Float32Array | Uint16Array;

export class ArrowRowsFile {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: FileHandle;
  readonly #columns: readonly ArrowColumn[];
  readonly #arrow: typeof import("apache-arrow");
  readonly #schema: import("apache-arrow").Schema;
  readonly #writer: RecordBatchFileWriter;
  /** What the writer has made and the file has not. */
  readonly #pending: Uint8Array[] = [];
  #end = 0;
  #rows = 0;

  private constructor(
    path: string,
    opened: { file: FileHandle; temporary: string },
    columns: readonly ArrowColumn[],
    metadata: Readonly<Record<string, string>>,
    arrow: typeof import("apache-arrow"),
  ) {
    this.#path = path;
    this.#temporary = opened.temporary;
    this.#file = opened.file;
    this.#columns = columns;
    this.#arrow = arrow;
    const fields = columns.map(({ name, type, list }) => {
      const element =
        type === "int32" ? new arrow.Int32() : type === "float32" ? new arrow.Float32() : new arrow.Float16();
      const whole =
        list === null ? element : new arrow.FixedSizeList(list, new arrow.Field("item", element, false));
      return new arrow.Field(name, whole, false);
    });
    this.#schema = new arrow.Schema(fields, new Map(Object.entries(metadata)));
    const pending = this.#pending;
    // The writer's own queue has no bound; this one is emptied into the file after every batch.
    class Queue extends arrow.AsyncByteQueue {
      override write(value: Parameters<InstanceType<typeof arrow.AsyncByteQueue>["write"]>[0]): void {
        if (typeof value === "string") pending.push(new TextEncoder().encode(value));
        else pending.push(new Uint8Array(value as unknown as Uint8Array));
      }
    }
    this.#writer = new arrow.RecordBatchFileWriter();
    this.#writer.reset(new Queue() as never, this.#schema);
  }

  /** @throws DataError ERR_FILE_WRITE. */
  static async create(
    path: string,
    columns: readonly ArrowColumn[],
    metadata: Readonly<Record<string, string>>,
  ): Promise<ArrowRowsFile> {
    // Loaded where it is needed: it takes long to load.
    const arrow = await import("apache-arrow");
    return new ArrowRowsFile(path, await openBeside(path), columns, metadata, arrow);
  }

  /** Writes one record batch. @throws DataError ERR_FILE_WRITE; EnvironmentError ERR_DISK_FULL. */
  async write(rows: number, columns: readonly ArrowValues[]): Promise<void> {
    const { Data, RecordBatch, Struct, makeData } = this.#arrow;
    const children = columns.map((values, c) => {
      const { list } = this.#columns[c]!;
      const type = this.#schema.fields[c]!.type;
      if (list === null) return new Data(type, 0, rows, 0, [undefined, values]);
      const element = (type as import("apache-arrow").FixedSizeList).children[0]!.type;
      return new Data(type, 0, rows, 0, {}, [new Data(element, 0, rows * list, 0, [undefined, values])]);
    });
    const data = makeData({ type: new Struct(this.#schema.fields), length: rows, nullCount: 0, children });
    this.#writer.write(new RecordBatch(this.#schema, data as never));
    this.#rows += rows;
    await this.#flush();
  }

  /** Writes the footer, syncs, renames. Returns the number of rows. */
  async finish(): Promise<number> {
    this.#writer.finish();
    await this.#flush();
    try {
      await this.#file.sync();
      await this.#file.close();
      await rename(this.#temporary, this.#path);
    } catch (cause) {
      throw writeError(cause, this.#path);
    }
    return this.#rows;
  }

  /** Removes what was written. Never throws. */
  async abandon(): Promise<void> {
    await this.#file.close().catch(() => undefined);
    await rm(this.#temporary, { force: true }).catch(() => undefined);
  }

  async #flush(): Promise<void> {
    try {
      for (const bytes of this.#pending.splice(0)) {
        await writeAll(this.#file, bytes, this.#end);
        this.#end += bytes.byteLength;
      }
    } catch (cause) {
      throw writeError(cause, this.#path);
    }
  }
}
