// SPDX-License-Identifier: Apache-2.0
// What the journal of an embedding run holds: one header with everything the result depends on, then a
// line for every shard that is on disk.

import type { SourceFile } from "../data/sources/source.ts";
import { DataError } from "../errors.ts";

/** The settings a shard's bytes depend on; a resumed run must have the same. */
export type Fingerprint = Record<string, string | number | boolean | null>;

export interface JournalHeader {
  type: "run";
  version: 1;
  created_at: string;
  run_id: string;
  fingerprint: Fingerprint;
  sources: SourceFile[];
  /** Rows of the data set where they were counted. */
  total_rows: number | null;
}

/** A shard as the original's manifests list it, and what resume needs besides. */
export interface ShardEntry {
  type: "shard";
  shard_index: number;
  /** Relative to the root; null where every row of the range was skipped and no file was written. */
  path: string | null;
  rows: number;
  rows_skipped: number;
  skip_reasons: Record<string, number>;
  /** Rows of the selection this shard covers. */
  positions: number;
  tokens: number;
  /** Tokens computed, padding included. */
  padded_tokens: number;
  bytes: number;
  sha256: string | null;
  embedding_dim: number;
  min_norm: number | null;
  max_norm: number | null;
  created_at: string;
  tool: { package: string; version: string; git_sha: string | null };
  /** host:folder of the worker that has the file; absent where it lies under the run's own root. */
  location?: string;
}

/** The end of the data was reached: rows in all. Written by the process that saw it. */
export interface EndEntry {
  type: "end";
  positions: number;
}

export type JournalEntry = JournalHeader | ShardEntry | EndEntry;

/** What a journal says, entry by entry or all together. */
export interface JournalState {
  header: JournalHeader | null;
  shards: Map<number, ShardEntry>;
  end: EndEntry | null;
}

/** Folds entries; of a shard named twice the first one counts, and both must agree. */
export function foldJournal(entries: readonly JournalEntry[], into?: JournalState): JournalState {
  const state: JournalState = into ?? { header: null, shards: new Map(), end: null };
  for (const entry of entries) {
    if (entry.type === "run") state.header ??= entry;
    else if (entry.type === "end") state.end ??= entry;
    else {
      const known = state.shards.get(entry.shard_index);
      if (known !== undefined && known.sha256 !== entry.sha256) {
        throw new DataError(
          "ERR_SHARD_CONFLICT",
          `Shard ${entry.shard_index} is in the journal twice with different content`,
          {
            details: { shard: entry.shard_index, first: known.sha256, second: entry.sha256 },
            remedies: [
              "the encoder is not deterministic on this machine: run with one device kind",
              "begin anew with --overwrite",
            ],
          },
        );
      }
      if (known === undefined) state.shards.set(entry.shard_index, entry);
    }
  }
  return state;
}

/** Lists what differs between the run that was begun and the one asked for. */
export function fingerprintDifference(was: Fingerprint, now: Fingerprint): string[] {
  const keys = [...new Set([...Object.keys(was), ...Object.keys(now)])].sort();
  return keys
    .filter((key) => was[key] !== now[key])
    .map((key) => `${key}: was ${JSON.stringify(was[key] ?? null)}, now ${JSON.stringify(now[key] ?? null)}`);
}

/** Refuses to go on with other settings. */
export function requireSameSettings(
  header: JournalHeader,
  now: Fingerprint,
  sources: readonly SourceFile[],
  path: string,
): void {
  const differences = fingerprintDifference(header.fingerprint, now);
  const before = new Map(header.sources.map((file) => [file.name, file]));
  const after = new Map(sources.map((file) => [file.name, file]));
  for (const [name, file] of before) {
    const other = after.get(name);
    if (other === undefined) differences.push(`source ${name}: gone`);
    else if (other.sha256 !== file.sha256)
      differences.push(`source ${name}: changed (${file.bytes} to ${other.bytes} bytes)`);
  }
  for (const name of after.keys()) if (!before.has(name)) differences.push(`source ${name}: new`);
  if (differences.length === 0) return;
  throw new DataError(
    "ERR_RESUME_SETTINGS",
    `The run in ${path} was begun with other settings:\n${differences.map((line) => `  ${line}`).join("\n")}`,
    {
      details: { journal: path, differences },
      remedies: [
        "repeat the command with the settings it was begun with",
        "begin anew with --overwrite",
        "take another --output-root",
      ],
    },
  );
}
