// SPDX-License-Identifier: Apache-2.0
// Tokeniser threads of the loader. Owned by the loader process; closed with it.

import { Worker } from "node:worker_threads";
import type { TokenizerFiles } from "../tokenize.ts";
import { fromWire, type WireError } from "../wire-error.ts";

export interface TokenizedTexts {
  ids: Int32Array;
  offsets: Int32Array;
}

type Answer = { id: number; ids: Int32Array; offsets: Int32Array } | { id: number; error: WireError };

/** Texts handed to a thread at once. */
const SLICE = 128;

export class TokenizerPool {
  readonly #workers: Worker[];
  readonly #waiting = new Map<
    number,
    { resolve(value: TokenizedTexts): void; reject(error: unknown): void }
  >();
  #next = 0;

  constructor(files: TokenizerFiles, threads: number) {
    this.#workers = Array.from({ length: threads }, () => {
      const worker = new Worker(new URL("./tokenizer-thread.js", import.meta.url), { workerData: files });
      worker.on("message", (answer: Answer) => {
        const waiting = this.#waiting.get(answer.id);
        this.#waiting.delete(answer.id);
        if ("error" in answer) waiting?.reject(fromWire(answer.error, "tokeniser"));
        else waiting?.resolve(answer);
      });
      worker.on("error", (error) => this.#fail(error));
      worker.on("exit", (code) => {
        if (code !== 0) this.#fail(new Error(`a tokeniser thread ended with code ${code}`));
      });
      return worker;
    });
  }

  #fail(error: unknown): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  /** Token ids of the texts, in order; slices go to the threads in turn. */
  async tokenize(texts: readonly string[]): Promise<TokenizedTexts> {
    const parts: Promise<TokenizedTexts>[] = [];
    for (let start = 0; start < texts.length; start += SLICE) {
      const id = this.#next++;
      const worker = this.#workers[id % this.#workers.length] as Worker;
      parts.push(
        new Promise((resolve, reject) => {
          this.#waiting.set(id, { resolve, reject });
          worker.postMessage({ id, texts: texts.slice(start, start + SLICE) });
        }),
      );
    }
    const done = await Promise.all(parts);
    const ids = new Int32Array(done.reduce((sum, part) => sum + part.ids.length, 0));
    const offsets = new Int32Array(texts.length + 1);
    let token = 0;
    let row = 0;
    for (const part of done) {
      ids.set(part.ids, token);
      for (let i = 1; i < part.offsets.length; i++) offsets[++row] = token + (part.offsets[i] as number);
      token += part.ids.length;
    }
    return { ids, offsets };
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
