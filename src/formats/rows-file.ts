// SPDX-License-Identifier: Apache-2.0
// A file of columns that grow row by row while their file is written: each column is one block of bytes,
// so every part (one prompt, say) is given its place for the most rows it may bring, and what it did not
// bring is closed up at the end. Little but the file is held: pieces wait until there are enough, because
// those of neighbouring parts stand side by side and go into the file in one write. It appears under its name
// when it is whole, or not at all; a process that dies leaves a `.tmp` beside it.

import { randomBytes } from "node:crypto";
import { writeSync, writevSync } from "node:fs";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { DataError, EnvironmentError } from "../errors.ts";

const MOVE_BYTES = 4 << 20;
/** Pieces wait until they are this much together. */
const JOIN_BYTES = 8 << 20;
// Handing a piece to another thread costs the processor twice what writing it into the page cache does.
const SYNC_BYTES = 1 << 20;
/** Where the page cache is full, writing waits for the disk: others have their turn after this long. */
const TURN_MS = 5;

export interface RowsFileLayout {
  /** Bytes one row takes in each column; columns stand in this order. */
  rowBytes: readonly number[];
  /** Most rows of each part; parts stand in this order. */
  mostRows: readonly number[];
  /** What stands before the first column of `rows` rows, padded to `bytes` when that is given. */
  header: (rows: number, bytes?: number) => Uint8Array;
}

export class RowsFile {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: FileHandle;
  readonly #layout: RowsFileLayout;
  /** First row of each part, and the number of all rows at the end. */
  readonly #starts: number[];
  readonly #written: number[];
  readonly #headerBytes: number;
  #waiting: Piece[] = [];
  #waitingBytes = 0;

  private constructor(path: string, temporary: string, file: FileHandle, layout: RowsFileLayout) {
    this.#path = path;
    this.#temporary = temporary;
    this.#file = file;
    this.#layout = layout;
    this.#starts = [0];
    for (const rows of layout.mostRows) this.#starts.push(this.#starts.at(-1)! + rows);
    this.#written = layout.mostRows.map(() => 0);
    this.#headerBytes = layout.header(this.#starts.at(-1)!).length;
  }

  /** @throws DataError ERR_FILE_WRITE. */
  static async create(path: string, layout: RowsFileLayout): Promise<RowsFile> {
    const { file, temporary } = await openBeside(path);
    return new RowsFile(path, temporary, file, layout);
  }

  /**
   * Appends rows to a part: one piece of bytes a column, which must stay as it is from now on.
   * @throws DataError ERR_FILE_WRITE; ERR_DISK_FULL, of this piece or of earlier ones.
   */
  async write(part: number, columns: readonly Uint8Array[]): Promise<void> {
    const { rowBytes } = this.#layout;
    const rows = columns[0]!.byteLength / rowBytes[0]!;
    const at = this.#starts[part]! + this.#written[part]!;
    this.#written[part]! += rows;
    if (this.#written[part]! > this.#layout.mostRows[part]!)
      throw new DataError(
        "ERR_FILE_WRITE",
        `${this.#path}: part ${part} brought more rows than it announced`,
      );
    let start = this.#headerBytes;
    for (const [c, bytes] of columns.entries()) {
      this.#waiting.push({ position: start + at * rowBytes[c]!, bytes });
      this.#waitingBytes += bytes.byteLength;
      start += rowBytes[c]! * this.#starts.at(-1)!;
    }
    if (this.#waitingBytes >= JOIN_BYTES) await this.#guard(() => this.#writeWaiting());
  }

  /** Closes the gaps, writes the header, syncs, renames. Returns the number of rows. */
  async finish(): Promise<number> {
    const rows = this.#written.reduce((sum, each) => sum + each, 0);
    await this.#guard(async () => {
      await this.#writeWaiting();
      if (rows < this.#starts.at(-1)!) await this.#closeGaps(rows);
      await this.#file.truncate(this.#columnStart(this.#layout.rowBytes.length, rows));
      // Fewer rows never make a longer header.
      await writeAll(this.#file, this.#layout.header(rows, this.#headerBytes), 0);
      await this.#file.sync();
      await this.#file.close();
      await rename(this.#temporary, this.#path);
    });
    return rows;
  }

  /** Removes what was written. Never throws. */
  async abandon(): Promise<void> {
    await this.#file.close().catch(() => undefined);
    await rm(this.#temporary, { force: true }).catch(() => undefined);
  }

  /** One run after the other: writes to one file wait for each other, and the model's threads take all cores. */
  async #writeWaiting(): Promise<void> {
    const pieces = this.#waiting.sort((a, b) => a.position - b.position);
    this.#waiting = [];
    this.#waitingBytes = 0;
    let turn = performance.now();
    for (let first = 0; first < pieces.length; ) {
      const { position } = pieces[first]!;
      const run: Uint8Array[] = [];
      for (let end = position; pieces[first]?.position === end; first++) {
        run.push(pieces[first]!.bytes);
        end += pieces[first]!.bytes.byteLength;
      }
      await writeRun(this.#file, run, position);
      if (performance.now() - turn < TURN_MS) continue;
      await new Promise((resolve) => setImmediate(resolve));
      turn = performance.now();
    }
  }

  #columnStart(column: number, rows: number): number {
    let start = this.#headerBytes;
    for (let c = 0; c < column; c++) start += this.#layout.rowBytes[c]! * rows;
    return start;
  }

  /** Every byte moves towards the front, in ascending order, so nothing is overwritten before it is read. */
  async #closeGaps(rows: number): Promise<void> {
    const buffer = new Uint8Array(MOVE_BYTES);
    for (const [c, size] of this.#layout.rowBytes.entries()) {
      let to = this.#columnStart(c, rows);
      for (const [part, written] of this.#written.entries()) {
        let from = this.#columnStart(c, this.#starts.at(-1)!) + this.#starts[part]! * size;
        let left = written * size;
        while (left > 0 && from !== to) {
          const { bytesRead } = await this.#file.read(buffer, 0, Math.min(left, buffer.length), from);
          if (bytesRead === 0) throw new Error("the file was cut while it was written");
          await writeAll(this.#file, buffer.subarray(0, bytesRead), to);
          from += bytesRead;
          to += bytesRead;
          left -= bytesRead;
        }
        to += left;
      }
    }
  }

  async #guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (cause) {
      throw writeError(cause, this.#path);
    }
  }
}

interface Piece {
  position: number;
  bytes: Uint8Array;
}

/** Writes pieces that stand side by side. */
async function writeRun(file: FileHandle, pieces: Uint8Array[], position: number): Promise<void> {
  const bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  let written = bytes <= SYNC_BYTES ? writevSync(file.fd, pieces, position) : 0;
  if (written === 0 && bytes > 0) written = (await file.writev(pieces, position)).bytesWritten;
  // What a full disk or a signal cut off.
  for (const piece of pieces) {
    const taken = Math.min(written, piece.byteLength);
    if (taken < piece.byteLength) await writeAll(file, piece.subarray(taken), position + taken);
    written -= taken;
    position += piece.byteLength;
  }
}

/** A new file beside the one that is to appear. @throws DataError ERR_FILE_WRITE; EnvironmentError. */
export async function openBeside(path: string): Promise<{ file: FileHandle; temporary: string }> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    return { file: await open(temporary, "wx+"), temporary };
  } catch (cause) {
    throw writeError(cause, path);
  }
}

export async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let done = 0;
  const small = bytes.byteLength <= SYNC_BYTES;
  while (done < bytes.byteLength) {
    const left = bytes.byteLength - done;
    done += small
      ? writeSync(file.fd, bytes, done, left, position + done)
      : (await file.write(bytes, done, left, position + done)).bytesWritten;
  }
}

/** @returns EnvironmentError ERR_DISK_FULL or DataError ERR_FILE_WRITE. */
export function writeError(cause: unknown, path: string): Error {
  if (cause instanceof DataError || cause instanceof EnvironmentError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG")
    return new EnvironmentError("ERR_DISK_FULL", `no space left to write ${path}`, {
      cause,
      details: { file: path, system: code },
      remedies: [
        "free space on that file system, or write to another one",
        "store fewer sites or rows, or a smaller dtype",
      ],
    });
  return new DataError("ERR_FILE_WRITE", `cannot write ${path}: ${message}`, {
    cause,
    details: { file: path },
    remedies: ["Check that the folder is there, may be written to, and has room."],
  });
}
