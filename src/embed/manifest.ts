// SPDX-License-Identifier: Apache-2.0
// The manifest and the run summary, with the Python chatspace's keys in its order, and a few more after them.

import type { SourceFile } from "../data/sources/source.ts";
import { type ResolvedConfig, snakeCaseConfig } from "./config.ts";
import type { ModelSpec } from "./encoders/encoder.ts";
import type { JournalHeader, ShardEntry } from "./journal.ts";
import { TOOL } from "./tool.ts";

export interface Manifest {
  dataset: string;
  subset: string | null;
  split: string;
  model: string;
  source: string;
  rows_total: number;
  rows_skipped: number;
  embedding_dim: number;
  rows_per_shard: number;
  shards: Omit<ShardEntry, "type">[];
  created_at: string;
  run_id: string;
  min_norm: number | null;
  max_norm: number | null;
  preprocessing: string | null;
  run_config: Record<string, unknown>;
  revision: string | null;
  source_files: SourceFile[];
  skip_reasons: Record<string, number>;
  pooling: { mode: string; from: string };
  normalized: { value: boolean; from: string };
  max_tokens: number;
  tokens_total: number;
  padding_waste: number;
  model_files: Record<string, string>;
}

export interface RunSummary {
  dataset: string;
  subset: string | null;
  split: string;
  model: string;
  created_at: string;
  run_id: string;
  duration_seconds: number;
  rows_total: number;
  rows_skipped: number;
  num_shards: number;
  embedding_dim: number;
  git_sha: string | null;
  manifest_path: string;
  min_norm: number | null;
  max_norm: number | null;
  tool_version: string;
  /** Of this session alone: a resumed run reports what it still had to do. */
  session: Record<string, unknown>;
}

interface Parts {
  config: ResolvedConfig;
  names: { dataset: string };
  model: ModelSpec;
  header: JournalHeader;
  shards: readonly ShardEntry[];
  revision: string | null;
  kind: "local" | "hub";
}

/** Sums over shards, in shard order. */
function totals(shards: readonly ShardEntry[]) {
  const reasons: Record<string, number> = {};
  let rows = 0;
  let skipped = 0;
  let tokens = 0;
  let padded = 0;
  let low: number | null = null;
  let high: number | null = null;
  let dim = 0;
  for (const shard of shards) {
    rows += shard.rows;
    skipped += shard.rows_skipped;
    tokens += shard.tokens;
    padded += shard.padded_tokens;
    dim = Math.max(dim, shard.embedding_dim);
    if (shard.min_norm !== null) low = Math.min(low ?? shard.min_norm, shard.min_norm);
    if (shard.max_norm !== null) high = Math.max(high ?? shard.max_norm, shard.max_norm);
    for (const [reason, count] of Object.entries(shard.skip_reasons))
      reasons[reason] = (reasons[reason] ?? 0) + count;
  }
  return { rows, skipped, tokens, padded, low, high, dim, reasons };
}

/** Builds the manifest; a function of the journal and the settings. */
export function buildManifest({ config, names, model, header, shards, revision, kind }: Parts): Manifest {
  const sum = totals(shards);
  return {
    dataset: names.dataset,
    subset: config.subset,
    split: config.split,
    model: model.name,
    source: config.sourceLabel ?? (kind === "hub" ? "huggingface" : "local"),
    rows_total: sum.rows,
    rows_skipped: sum.skipped,
    embedding_dim: sum.dim,
    rows_per_shard: config.rowsPerShard,
    shards: shards.filter((shard) => shard.path !== null).map(({ type: _, ...shard }) => shard),
    created_at: header.created_at,
    run_id: header.run_id,
    min_norm: sum.low,
    max_norm: sum.high,
    preprocessing: config.extractFirstAssistant
      ? `Extracted first assistant response from '${config.textField}' field; skipped rows without assistant responses`
      : null,
    run_config: snakeCaseConfig(config),
    revision,
    source_files: header.sources,
    skip_reasons: sum.reasons,
    pooling: { mode: model.pooling, from: model.poolingSource },
    normalized: { value: model.normalize, from: model.normalizeSource },
    max_tokens: model.maxTokens,
    tokens_total: sum.tokens,
    padding_waste: sum.padded === 0 ? 0 : 1 - sum.tokens / sum.padded,
    model_files: model.identity,
  };
}

/** Builds the run summary. */
export function buildSummary(
  manifest: Manifest,
  more: { seconds: number; gitSha: string | null; manifestPath: string; session: Record<string, unknown> },
): RunSummary {
  return {
    dataset: manifest.dataset,
    subset: manifest.subset,
    split: manifest.split,
    model: manifest.model,
    created_at: manifest.created_at,
    run_id: manifest.run_id,
    duration_seconds: more.seconds,
    rows_total: manifest.rows_total,
    rows_skipped: manifest.rows_skipped,
    num_shards: manifest.shards.length,
    embedding_dim: manifest.embedding_dim,
    git_sha: more.gitSha,
    manifest_path: more.manifestPath,
    min_norm: manifest.min_norm,
    max_norm: manifest.max_norm,
    tool_version: TOOL.version,
    session: more.session,
  };
}
