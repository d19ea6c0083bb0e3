// SPDX-License-Identifier: Apache-2.0
// What is seen while a run goes: counts from the stages, rates, queue depths, time left; and the same as
// Prometheus text.

import type { FromStage } from "./stages/messages.ts";

/** A moment of a run. JSON-safe. */
export interface EmbedProgress {
  /** Rows embedded in this session, and rows skipped. */
  rows: number;
  skipped: number;
  /** Rows of the selection that were on disk when the session began. */
  resumedRows: number;
  /** Rows of the selection in all, where known. */
  total: number | null;
  shards: number;
  tokens: number;
  rowsPerSecond: number;
  tokensPerSecond: number;
  /** Share of computed tokens that were padding. */
  paddingWaste: number;
  batches: number;
  /** Windows that wait: tokenised, for the encoders, for the rest of their shard. */
  queues: { loader: number; encoder: number; writer: number };
  /** Share of the encoders' time that they waited for rows. */
  encoderIdle: number;
  seconds: number;
  etaSeconds: number | null;
}

/** Adds up stage messages. */
export class ProgressMeter {
  readonly #started = performance.now();
  #rows = 0;
  #skipped = 0;
  #resumed = 0;
  #total: number | null = null;
  #shards = 0;
  #tokens = 0;
  #padded = 0;
  #batches = 0;
  #busyMs = 0;
  #waitMs = 0;
  #firstRowAt: number | null = null;
  #queues = { loader: 0, encoder: 0, writer: 0 };
  warmUp: Record<string, number> | null = null;

  expect(plan: { resumed: number; total: number | null }): void {
    this.#resumed = plan.resumed;
    this.#total = plan.total;
  }

  take(message: FromStage): void {
    switch (message.type) {
      case "loaded":
        this.#skipped += message.skipped;
        this.#queues.loader = message.queued;
        break;
      case "encoded":
        this.#firstRowAt ??= performance.now() - message.ms;
        this.#rows += message.rows;
        this.#tokens += message.tokens;
        this.#padded += message.paddedTokens;
        this.#batches += message.batches;
        this.#busyMs += message.ms;
        this.#waitMs += message.waitMs;
        this.#queues.encoder = message.queued;
        break;
      case "shard":
        this.#shards++;
        this.#queues.writer = message.queued;
        break;
      case "warm-up":
        this.warmUp = message.times;
        break;
    }
  }

  snapshot(): EmbedProgress {
    const now = performance.now();
    const seconds = (now - this.#started) / 1000;
    const running = Math.max((now - (this.#firstRowAt ?? now)) / 1000, 1e-3);
    const rowsPerSecond = this.#rows / running;
    const done = this.#rows + this.#skipped + this.#resumed;
    const left = this.#total === null ? null : Math.max(0, this.#total - done);
    const perSecond = (this.#rows + this.#skipped) / running;
    return {
      rows: this.#rows,
      skipped: this.#skipped,
      resumedRows: this.#resumed,
      total: this.#total,
      shards: this.#shards,
      tokens: this.#tokens,
      rowsPerSecond,
      tokensPerSecond: this.#tokens / running,
      paddingWaste: this.#padded === 0 ? 0 : 1 - this.#tokens / this.#padded,
      batches: this.#batches,
      queues: { ...this.#queues },
      encoderIdle: this.#busyMs + this.#waitMs === 0 ? 0 : this.#waitMs / (this.#busyMs + this.#waitMs),
      seconds,
      etaSeconds: left === null || perSecond === 0 ? null : left / perSecond,
    };
  }
}

/** Prometheus text exposition of a moment. */
export function prometheusText(progress: EmbedProgress, labels: Record<string, string>): string {
  const label = Object.entries(labels)
    .map(([key, value]) => `${key}="${value.replace(/["\\\n]/g, "_")}"`)
    .join(",");
  const lines: string[] = [];
  const metric = (name: string, type: "counter" | "gauge", help: string, value: number, extra = ""): void => {
    const full = `chatspace_embed_${name}`;
    if (!lines.some((line) => line.startsWith(`# TYPE ${full} `)))
      lines.push(`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`);
    lines.push(`${full}{${label}${extra}} ${value}`);
  };
  metric("rows_total", "counter", "Rows embedded in this session.", progress.rows);
  metric("rows_skipped_total", "counter", "Rows left out.", progress.skipped);
  metric("tokens_total", "counter", "Tokens embedded.", progress.tokens);
  metric("shards_total", "counter", "Shards written.", progress.shards);
  metric("rows_per_second", "gauge", "Rows a second since the first batch.", progress.rowsPerSecond);
  metric("tokens_per_second", "gauge", "Tokens a second since the first batch.", progress.tokensPerSecond);
  metric(
    "padding_waste_ratio",
    "gauge",
    "Share of computed tokens that were padding.",
    progress.paddingWaste,
  );
  metric("encoder_idle_ratio", "gauge", "Share of time the encoders waited.", progress.encoderIdle);
  for (const [queue, depth] of Object.entries(progress.queues))
    metric("queue_depth", "gauge", "Windows that wait before a stage.", depth, `,queue="${queue}"`);
  return `${lines.join("\n")}\n`;
}
