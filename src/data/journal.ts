// SPDX-License-Identifier: Apache-2.0
// The append-only record of a run: one JSON object a line, synced before anyone counts on it. A line cut
// short by a crash is ignored and cut off when the journal is opened for writing again.

import { type FileHandle, link, mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { DataError } from "../errors.ts";
import { asWriteError, syncDirectory } from "./files.ts";

/** Splits a journal into its whole lines and the length in bytes they take. */
function wholeLines(content: Buffer, path: string): { entries: unknown[]; bytes: number } {
  const entries: unknown[] = [];
  let start = 0;
  for (let end = content.indexOf(10); end !== -1; end = content.indexOf(10, start)) {
    const line = content.toString("utf8", start, end);
    try {
      entries.push(JSON.parse(line));
    } catch (error) {
      // A torn write can only be the last line; anything before it is damage.
      if (content.indexOf(10, end + 1) === -1 && end + 1 === content.byteLength) break;
      throw new DataError("ERR_JOURNAL_DAMAGED", `${path}: line ${entries.length + 1} is not JSON`, {
        details: { path, line: entries.length + 1 },
        remedies: ["restore the journal from a copy", "begin anew with --overwrite"],
        cause: error,
      });
    }
    start = end + 1;
  }
  return { entries, bytes: start };
}

/** Every whole entry of a journal; an absent file has none. */
export async function readJournal<T>(path: string): Promise<T[]> {
  let content: Buffer;
  try {
    content = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  return wholeLines(content, path).entries as T[];
}

/**
 * Creates a journal that already holds `header`, or leaves the one that is there. Of several processes
 * that begin at once one wins, and all go on from the same header.
 */
export async function createJournal(path: string, header: object): Promise<void> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true });
  const temporary = join(directory, `.${process.pid}-${Math.random().toString(36).slice(2)}.tmp`);
  try {
    const handle = await open(temporary, "wx");
    try {
      await handle.writeFile(`${JSON.stringify(header)}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await link(temporary, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw asWriteError(error, path);
  } finally {
    await rm(temporary, { force: true });
  }
  await syncDirectory(directory);
}

/** A journal open for appending. */
export class JournalWriter {
  readonly path: string;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  /** Opens (or creates) the journal and cuts off a torn last line. */
  static async open(path: string): Promise<JournalWriter> {
    await mkdir(dirname(path), { recursive: true });
    const handle = await open(path, "a+");
    try {
      const content = await handle.readFile();
      const { bytes } = wholeLines(content, path);
      if (bytes < content.byteLength) await handle.truncate(bytes);
      await handle.sync();
    } catch (error) {
      await handle.close();
      throw error;
    }
    await syncDirectory(dirname(path));
    return new JournalWriter(path, handle);
  }

  /** Appends one entry in one write and syncs it. */
  async append(entry: object): Promise<void> {
    try {
      await this.#handle.appendFile(`${JSON.stringify(entry)}\n`);
      await this.#handle.sync();
    } catch (error) {
      throw asWriteError(error, this.path);
    }
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}
