// SPDX-License-Identifier: Apache-2.0
// What travels through the queue. JSON-safe.

import type { SourceFile } from "../../data/sources/source.ts";
import type { ResolvedConfig } from "../config.ts";
import type { Fingerprint, ShardEntry } from "../journal.ts";

export interface RangeJob {
  config: ResolvedConfig;
  begin: { createdAt: string; runId: string };
  fingerprint: Fingerprint;
  sources: SourceFile[];
  range: { start: number; end: number };
}

export interface RangeResult {
  shards: ShardEntry[];
  /** host:folder where the shards lie. */
  location: string;
}
