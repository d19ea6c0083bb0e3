// SPDX-License-Identifier: Apache-2.0
// Entry of the loader process: reads the rows of the shards that are missing, tokenises windows on its
// threads, hands them to the encoders.

import type { Socket } from "node:net";
import { join } from "node:path";
import { serialize } from "node:v8";
import { openDataset } from "../../data/sources/open.ts";
import { selectRows } from "../selection.ts";
import { type Window, WindowCutter } from "../windows.ts";
import { writeFrame } from "./frames.ts";
import { BoundedQueue } from "./queue.ts";
import { connectTo, runStage } from "./stage.ts";
import { type TokenizedTexts, TokenizerPool } from "./tokenizer-pool.ts";

interface Prepared {
  window: Window;
  tokens: Promise<TokenizedTexts | null>;
}

runStage(async ({ settings, send, onFinishShard }) => {
  const { config, model } = settings;
  let stopping = false;
  onFinishShard(() => {
    stopping = true;
  });
  const source = await openDataset({
    dataset: config.dataset,
    subset: config.subset,
    split: config.split,
    revision: config.revision,
    cacheFolder: settings.cacheFolder,
  });
  const pool =
    model.tokenizer === null
      ? null
      : new TokenizerPool(
          {
            tokenizer: model.tokenizer,
            tokenizerConfig: model.tokenizerConfig,
            maxTokens: model.maxTokens,
            prefix: config.prefix,
          },
          config.tokenizerThreads ?? 1,
        );
  const queue = new BoundedQueue<Prepared>(config.prefetchBatches);
  const sockets = await Promise.all(settings.encoderSockets.map(connectTo));
  let windows = 0;
  let end: number | null = null;
  let shardsEnd = 0;
  let stopped = false;

  const produce = async (): Promise<void> => {
    const cutter = new WindowCutter(config, settings.columns);
    const offer = async (done: readonly Window[]): Promise<void> => {
      for (const window of done) {
        const tokens = pool === null ? Promise.resolve(null) : pool.tokenize(window.texts);
        // Reported when it is taken; until then it must not count as unhandled.
        tokens.catch(() => undefined);
        await queue.put({ window, tokens });
      }
    };
    const wanted = new Set(settings.columns.map((column) => column.name.replace(/^_original_/, "")));
    const rows = selectRows(
      {
        source,
        columns: [...wanted.add(config.textField)],
        ranges: settings.ranges.map(({ start, end: last }) => ({
          start: start * config.rowsPerShard,
          end: last === null ? null : last * config.rowsPerShard,
        })),
        maxRows: config.maxRows,
        fileRows: settings.fileRows,
        shuffle:
          config.shuffleSeed === null
            ? null
            : {
                seed: config.shuffleSeed,
                totalRows: settings.totalRows ?? 0,
                spoolFolder: join(settings.cacheFolder, "shuffle"),
              },
      },
      (positions) => {
        end = positions;
      },
    );
    let shard = -1;
    outer: for await (const batch of rows) {
      for (const row of batch) {
        const next = cutter.shardOf(row.position);
        if (next !== shard) {
          if (stopping && shard !== -1) {
            stopped = true;
            break outer;
          }
          shard = next;
          shardsEnd = Math.max(shardsEnd, shard + 1);
        }
        await offer(cutter.push(row));
      }
    }
    await offer(cutter.finish());
    queue.close();
  };

  const consume = async (): Promise<void> => {
    for (;;) {
      const next = await queue.take();
      if (next === null) break;
      const { window } = next;
      const tokens = await next.tokens;
      const payload = serialize({ rowIds: window.rowIds, texts: window.texts, columns: window.columns });
      const header = {
        kind: "window",
        shard: window.shard,
        window: window.window,
        last: window.last,
        positions: window.positions,
        skipped: window.skipped,
        rows: window.texts.length,
      };
      const blocks = [payload, asBytes(tokens?.ids), asBytes(tokens?.offsets)];
      // The encoder with the least waiting; one encoder stops the loader through its socket.
      const socket = sockets.reduce((best, other) =>
        other.writableLength < best.writableLength ? other : best,
      ) as Socket;
      await writeFrame(socket, { header, blocks });
      windows++;
      const skipped = window.last ? Object.values(window.skipped).reduce((sum, count) => sum + count, 0) : 0;
      send({ type: "loaded", rows: window.texts.length, skipped, queued: queue.size });
    }
    for (const socket of sockets) {
      await writeFrame(socket, { header: { kind: "end" }, blocks: [] });
      await new Promise<void>((resolve) => socket.end(resolve));
    }
  };

  const production = produce();
  production.catch((error) => queue.fail(error));
  await Promise.all([production, consume()]);
  await pool?.close();
  send({ type: "loader-end", end: { positions: end, windows, shardsEnd, stopped } });
});

function asBytes(values: Int32Array | undefined): Uint8Array {
  return values === undefined
    ? new Uint8Array(0)
    : new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
