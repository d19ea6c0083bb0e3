// SPDX-License-Identifier: Apache-2.0
// Entry of a lane: a thread with a session of its own, which runs one batch after another.

import { parentPort, workerData } from "node:worker_threads";
import { toWire } from "../wire-error.ts";
import type { ModelSpec } from "./encoder.ts";
import { openOnnxEncoder } from "./onnx.ts";

const { spec, device, threads } = workerData as { spec: ModelSpec; device: string; threads: number };
// A lane is handed whole batches: whatever it gets is one.
const limits = { tokensPerBatch: null, batchSize: null, minTokens: 1, batchCost: Number.MAX_SAFE_INTEGER };
const opening = openOnnxEncoder(spec, { device, threads, limits });
opening.then(
  () => parentPort?.postMessage({ ready: true }),
  (error: unknown) => parentPort?.postMessage({ error: toWire(error) }),
);

parentPort?.on("message", async ({ ids, offsets }: { ids: Int32Array; offsets: Int32Array }) => {
  try {
    const encoder = await opening;
    const { embeddings, dim } = await encoder.encode({ rows: offsets.length - 1, ids, offsets, texts: null });
    parentPort?.postMessage({ embeddings, dim }, [embeddings.buffer as ArrayBuffer]);
  } catch (error) {
    parentPort?.postMessage({ error: toWire(error) });
  }
});
