// SPDX-License-Identifier: Apache-2.0
// Entry of the writer process: gathers the windows of each shard, writes the shard under a temporary
// name, syncs, renames, and only then records it in the journal.

import type { Socket } from "node:net";
import { join } from "node:path";
import { deserialize } from "node:v8";
import { writeFileAtomic } from "../../data/files.ts";
import { JournalWriter } from "../../data/journal.ts";
import { shardFileName } from "../../data/names.ts";
import { type PageCodec, pageCodec } from "../../data/shards/compression.ts";
import { toHalfArray } from "../../data/shards/half.ts";
import { encodeParquet } from "../../data/shards/parquet-writer.ts";
import { shardSchema } from "../../data/shards/schema.ts";
import { DataError, ModelError } from "../../errors.ts";
import { rowNorm } from "../encoders/pooling.ts";
import type { ShardEntry } from "../journal.ts";
import { TOOL } from "../tool.ts";
import type { WindowRows } from "../windows.ts";
import { linkError, readFrames } from "./frames.ts";
import type { StageSettings } from "./messages.ts";
import { listenAt, runStage } from "./stage.ts";

interface HeldWindow {
  rows: WindowRows;
  embeddings: Float32Array;
}

interface OpenShard {
  windows: Map<number, HeldWindow>;
  /** Number of windows, known from the last one. */
  count: number | null;
  positions: number;
  skipped: Record<string, number>;
  dim: number;
  tokens: number;
  paddedTokens: number;
}

runStage(async ({ settings, send }) => {
  const codec = await pageCodec(settings.config.compression);
  const journal = await JournalWriter.open(settings.journal);
  const open = new Map<number, OpenShard>();
  let windows = 0;
  let shards = 0;
  let writing = Promise.resolve();

  const take = async (socket: Socket): Promise<void> => {
    let ended = false;
    for await (const { header, blocks } of readFrames(socket)) {
      if (header.kind === "end") {
        ended = true;
        continue;
      }
      windows++;
      const index = Number(header.shard);
      const shard = open.get(index) ?? {
        windows: new Map(),
        count: null,
        positions: 0,
        skipped: {},
        dim: 0,
        tokens: 0,
        paddedTokens: 0,
      };
      open.set(index, shard);
      const [payload, vectors] = blocks as [Uint8Array, Uint8Array];
      shard.windows.set(Number(header.window), {
        rows: deserialize(payload) as WindowRows,
        embeddings: new Float32Array(vectors.buffer, vectors.byteOffset, vectors.byteLength / 4),
      });
      shard.dim = Math.max(shard.dim, Number(header.dim));
      shard.tokens += Number(header.tokens);
      shard.paddedTokens += Number(header.paddedTokens);
      if (header.last === true) {
        shard.count = Number(header.window) + 1;
        shard.positions = Number(header.positions);
        shard.skipped = header.skipped as Record<string, number>;
      }
      if (shard.count === shard.windows.size) {
        open.delete(index);
        // One shard at a time; an encoder that runs ahead waits here.
        writing = writing.then(async () => {
          const entry = await writeShard(settings, codec, index, shard);
          await journal.append(entry);
          shards++;
          send({
            type: "shard",
            entry,
            queued: [...open.values()].reduce((sum, other) => sum + other.windows.size, 0),
          });
        });
        await writing;
      }
    }
    if (!ended) throw linkError("an encoder went away before the end of the data");
  };

  const encoders = settings.encoderSockets.length;
  await new Promise<void>((resolve, reject) => {
    let done = 0;
    listenAt(settings.writerSocket, (socket) => {
      take(socket).then(() => {
        done++;
        if (done === encoders) resolve();
      }, reject);
    }).then((server) => server.unref(), reject);
  });
  if (open.size > 0) {
    throw new DataError(
      "ERR_ROWS_LOST",
      `Shards ${[...open.keys()].join(", ")} did not come whole to the writer`,
      {
        details: { shards: [...open.keys()] },
      },
    );
  }
  await journal.close();
  send({ type: "writer-end", shards, windows });
});

async function writeShard(
  settings: StageSettings,
  codec: PageCodec,
  index: number,
  shard: OpenShard,
): Promise<ShardEntry> {
  const held = Array.from({ length: shard.count ?? 0 }, (_, i) => shard.windows.get(i) as HeldWindow);
  const rows = held.reduce((sum, window) => sum + window.rows.texts.length, 0);
  const skipped = Object.values(shard.skipped).reduce((sum, count) => sum + count, 0);
  const entry: ShardEntry = {
    type: "shard",
    shard_index: index,
    path: null,
    rows,
    rows_skipped: skipped,
    skip_reasons: shard.skipped,
    positions: shard.positions,
    tokens: shard.tokens,
    padded_tokens: shard.paddedTokens,
    bytes: 0,
    sha256: null,
    embedding_dim: shard.dim,
    min_norm: null,
    max_norm: null,
    created_at: new Date().toISOString(),
    tool: { ...TOOL, git_sha: settings.gitSha },
  };
  if (rows + skipped !== shard.positions) {
    throw new DataError(
      "ERR_ROWS_LOST",
      `Shard ${index}: ${shard.positions} rows were read, ${rows} embedded and ${skipped} skipped`,
      {
        details: { shard: index, positions: shard.positions, rows, skipped },
      },
    );
  }
  if (rows === 0) return entry;
  const { dim } = shard;
  const embeddings = new Float32Array(rows * dim);
  let at = 0;
  for (const window of held) {
    if (window.embeddings.length !== window.rows.texts.length * dim) {
      throw new DataError(
        "ERR_ROWS_LOST",
        `Shard ${index}: ${window.rows.texts.length} rows came with ${window.embeddings.length} numbers, not ${dim} each`,
        {
          details: { shard: index, dim },
        },
      );
    }
    embeddings.set(window.embeddings, at);
    at += window.embeddings.length;
  }
  const rowIds = held.flatMap((window) => window.rows.rowIds);
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (let row = 0; row < rows; row++) {
    const norm = rowNorm(embeddings, row * dim, dim);
    if (!Number.isFinite(norm)) {
      throw new ModelError(
        "ERR_EMBEDDING_NOT_FINITE",
        `The vector of row ${rowIds[row]} holds NaN or infinity`,
        {
          details: { rowId: rowIds[row], shard: index },
          remedies: ["take weights of higher precision by --dtype float32", "look at the row's text"],
        },
      );
    }
    low = Math.min(low, norm);
    high = Math.max(high, norm);
  }
  const constant = (value: string): string[] => new Array<string>(rows).fill(value);
  const { outputDtype } = settings.config;
  const parts = encodeParquet(
    shardSchema(settings.columns, dim, outputDtype),
    {
      rows,
      columns: [
        ...settings.columns.map((_, i) => held.flatMap((window) => window.rows.columns[i] ?? [])),
        rowIds.map((id) => BigInt(id)),
        held.flatMap((window) => window.rows.texts),
        constant(settings.model.name),
        constant(settings.createdAt),
        constant(settings.runId),
      ],
      embeddings: outputDtype === "float16" ? toHalfArray(embeddings) : embeddings,
    },
    codec,
  );
  const name = shardFileName(index);
  const { bytes, sha256 } = await writeFileAtomic(join(settings.embeddings, name), parts);
  return {
    ...entry,
    path: `${settings.embeddingsName}/${name}`,
    bytes,
    sha256,
    min_norm: low,
    max_norm: high,
  };
}
