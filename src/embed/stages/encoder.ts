// SPDX-License-Identifier: Apache-2.0
// Entry of an encoder process: one device, one loaded model; windows in, windows with vectors out.

import type { Socket } from "node:net";
import { deserialize } from "node:v8";
import { openEncoder } from "../encoders/open.ts";
import { type Frame, linkError, readFrames, writeFrame } from "./frames.ts";
import { BoundedQueue } from "./queue.ts";
import { connectTo, listenAt, runStage } from "./stage.ts";

const PROGRESS_MS = 500;

runStage(async ({ settings, send }) => {
  const index = settings.config.device.split(",").length > 1 ? deviceIndex(settings.device) : 0;
  let onLoader: (socket: Socket) => void = () => undefined;
  const loader = new Promise<Socket>((resolve) => {
    onLoader = resolve;
  });
  const server = await listenAt(settings.encoderSockets[index] as string, (socket) => onLoader(socket));
  const writer = await connectTo(settings.writerSocket);
  const encoder = await openEncoder(settings);
  if (settings.config.compileModel) {
    const lengths = [8, 16, 32, 64, 128, 256, 512].filter((length) => length <= settings.model.maxTokens);
    send({ type: "warm-up", times: await encoder.warmUp(lengths) });
  }

  const queue = new BoundedQueue<Frame>(settings.config.prefetchBatches);
  const pump = async (): Promise<void> => {
    let ended = false;
    for await (const frame of readFrames(await loader)) {
      if (frame.header.kind === "end") ended = true;
      else await queue.put(frame);
    }
    if (!ended) throw linkError("the loader went away before the end of the data");
    queue.close();
  };
  const pumping = pump();
  pumping.catch((error) => queue.fail(error));

  for (;;) {
    const waited = performance.now();
    const frame = await queue.take();
    if (frame === null) break;
    const started = performance.now();
    const [payload, ids, offsets] = frame.blocks as [Uint8Array, Uint8Array, Uint8Array];
    const rows = Number(frame.header.rows);
    // What was reported before the window is done, so that long windows are seen to move.
    const told = { rows: 0, tokens: 0, paddedTokens: 0, batches: 0, at: started };
    const pending = { rows: 0, tokens: 0, paddedTokens: 0, batches: 0 };
    const tell = (waitMs: number): void => {
      const nowMs = performance.now();
      send({ type: "encoded", ...pending, ms: nowMs - told.at, waitMs, queued: queue.size });
      for (const key of ["rows", "tokens", "paddedTokens", "batches"] as const) {
        told[key] += pending[key];
        pending[key] = 0;
      }
      told.at = nowMs;
    };
    const onBatch = (batch: { rows: number; tokens: number; paddedTokens: number }): void => {
      pending.rows += batch.rows;
      pending.tokens += batch.tokens;
      pending.paddedTokens += batch.paddedTokens;
      pending.batches++;
      if (performance.now() - told.at > PROGRESS_MS) tell(0);
    };
    const result =
      rows === 0
        ? { embeddings: new Float32Array(0), dim: 0, tokens: 0, paddedTokens: 0, batches: 0 }
        : await encoder.encode({
            rows,
            ids: encoder.wantsText ? null : asInt32(ids),
            offsets: encoder.wantsText ? null : asInt32(offsets),
            texts: encoder.wantsText ? (deserialize(payload) as { texts: string[] }).texts : null,
            onBatch,
          });
    const { embeddings, dim } = result;
    await writeFrame(writer, {
      header: { ...frame.header, dim, tokens: result.tokens, paddedTokens: result.paddedTokens },
      blocks: [payload, new Uint8Array(embeddings.buffer, embeddings.byteOffset, embeddings.byteLength)],
    });
    pending.rows = rows - told.rows;
    pending.tokens = result.tokens - told.tokens;
    pending.paddedTokens = result.paddedTokens - told.paddedTokens;
    pending.batches = result.batches - told.batches;
    tell(started - waited);
  }
  await pumping;
  await writeFrame(writer, { header: { kind: "end" }, blocks: [] });
  await new Promise<void>((resolve) => writer.end(resolve));
  server.close();
  await encoder.close();

  function deviceIndex(device: string): number {
    return Number(device.split("#")[1] ?? 0);
  }
});

function asInt32(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}
