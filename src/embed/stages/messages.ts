// SPDX-License-Identifier: Apache-2.0
// What parent and stages tell each other over their control channel.

import type { ScalarColumn } from "../../data/shards/schema.ts";
import type { ResolvedConfig } from "../config.ts";
import type { ModelSpec } from "../encoders/encoder.ts";
import type { ShardEntry } from "../journal.ts";
import type { WireError } from "../wire-error.ts";

/** Everything a stage is started with. JSON-safe. */
export interface StageSettings {
  config: ResolvedConfig;
  model: ModelSpec;
  /** Device of this encoder process. */
  device: string;
  /** Folder of cache files. */
  cacheFolder: string;
  /** Where encoder processes and the writer listen. */
  encoderSockets: string[];
  writerSocket: string;
  /** Source columns with their declared types. */
  columns: ScalarColumn[];
  /** Shards that are to be made, as half-open ranges; the last end may be null (to the end of the data). */
  ranges: { start: number; end: number | null }[];
  /** Rows of each source file where known. */
  fileRows: number[];
  /** Rows in all, known where the data set is shuffled or was counted. */
  totalRows: number | null;
  createdAt: string;
  runId: string;
  journal: string;
  embeddings: string;
  /** Path of the shards' folder relative to the root, "/"-separated. */
  embeddingsName: string;
  gitSha: string | null;
}

export type ToStage = { type: "start"; settings: StageSettings } | { type: "finish-shard" };

export interface LoaderEnd {
  /** Rows of the selection in all (skipped ones included), where the end of the data was reached. */
  positions: number | null;
  /** Windows sent. */
  windows: number;
  /** One more than the last shard index sent; 0 where nothing was sent. */
  shardsEnd: number;
  /** true: stopped on request before the end of the data. */
  stopped: boolean;
}

export type FromStage =
  | { type: "ready" }
  | { type: "listening" }
  | { type: "loader-end"; end: LoaderEnd }
  | { type: "loaded"; rows: number; skipped: number; queued: number }
  | {
      type: "encoded";
      rows: number;
      tokens: number;
      paddedTokens: number;
      batches: number;
      ms: number;
      waitMs: number;
      queued: number;
    }
  | { type: "warm-up"; times: Record<string, number> }
  | { type: "shard"; entry: ShardEntry; queued: number }
  | { type: "writer-end"; shards: number; windows: number }
  | { type: "error"; error: WireError };
