// SPDX-License-Identifier: Apache-2.0
// Entry of a tokeniser thread.

import { parentPort, workerData } from "node:worker_threads";
import { RowTokenizer, type TokenizerFiles } from "../tokenize.ts";
import { toWire } from "../wire-error.ts";

const opening = RowTokenizer.open(workerData as TokenizerFiles);
opening.catch(() => undefined);

parentPort?.on("message", async ({ id, texts }: { id: number; texts: string[] }) => {
  try {
    const { ids, offsets } = (await opening).encodeAll(texts);
    parentPort?.postMessage({ id, ids, offsets }, [ids.buffer as ArrayBuffer, offsets.buffer as ArrayBuffer]);
  } catch (error) {
    parentPort?.postMessage({ id, error: toWire(error) });
  }
});
