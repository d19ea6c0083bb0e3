// SPDX-License-Identifier: Apache-2.0
// embed-hf: embed a data set with an ONNX encoder, a site of a decoder, or an endpoint. Flags are those
// of the Python chatspace, with the new ones after them.

import type { Command } from "commander";
import type { EmbedConfig } from "../../embed/config.ts";
import type { EmbedProgress } from "../../embed/progress.ts";
import type { EmbedResult } from "../../embed/run.ts";
import { EXIT, ExitError } from "../exit-codes.ts";
import { InterruptError } from "../interrupt.ts";
import { naturalNumber, positiveInteger } from "../options.ts";
import { note, printJson, printJsonLine, printLine, warn } from "../terminal.ts";

interface Flags {
  [flag: string]: unknown;
  dataset: string;
  progress: boolean;
  json?: boolean;
  metricsFile?: string;
  queue?: string;
  shardRange?: string;
  columns?: string;
  rangeShards: number;
}

/** Adds the settings of a run; `worker` has none of them, it gets them from its queue. */
function addEmbedOptions(command: Command): Command {
  return command
    .requiredOption("--dataset <name|path|glob>", "hub data set, local file, folder or glob")
    .option("--subset <name>", "configuration or subfolder")
    .option("--split <name>", "split", "train")
    .option("--text-field <column>", "column to embed", "text")
    .option("--model <name|folder>", "ONNX encoder (hub name or folder), or a decoder with --site")
    .option(
      "--batch-size <n>",
      "most rows of a batch (default: only the token budget counts)",
      positiveInteger,
    )
    .option("--rows-per-shard <n>", "source rows of a shard", positiveInteger, 8192)
    .option("--max-rows <n>", "stop after so many source rows", positiveInteger)
    .option("--output-root <folder>", "where everything goes", "./chatspace-data")
    .option("--dtype <name>", "precision of the weights: auto, float32, float16, int8, q4", "auto")
    .option("--device <list>", "cpu, cuda, cuda:N; several by comma, one encoder process each", "cpu")
    .option("--attention <name>", "accepted for chatspace's users; the engines choose their own")
    .option("--prefetch-batches <n>", "windows that may wait before each stage", positiveInteger, 4)
    .option(
      "--bucket-min-tokens <n>",
      "a row counts as at least so many tokens in a batch",
      positiveInteger,
      8,
    )
    .option("--bucket-max-tokens <n>", "rows are cut at so many tokens", positiveInteger, 32_768)
    .option("--tokens-per-batch <n>", "token budget of a batch (default 4096)", positiveInteger)
    .option("--compile-model", "warm up over the usual lengths and report the times")
    .option("--compile-mode <name>", "accepted for chatspace's users", "default")
    .option("--no-progress", "no progress line")
    .option("--run-id <id>", "name of the run (default: its time)")
    .option("--resume", "go on with a run that was begun, or begin it")
    .option("--extract-first-assistant", "embed the first assistant turn of a conversation column")
    .option("--revision <name>", "branch, tag or commit of a hub data set", "main")
    .option(
      "--shuffle-seed <n>",
      "rows in a seeded random order; with --max-rows a uniform sample",
      naturalNumber,
    )
    .option("--columns <list>", "source columns to carry along: a,b:json, or * for all")
    .option(
      "--pooling <name>",
      "mean, cls, max, last, mean-sqrt-len, weighted-mean (default: as the model says)",
    )
    .option("--normalize", "scale vectors to length 1 (default: as the model says)")
    .option("--no-normalize", "leave vectors as they are")
    .option("--site <name>", "embed with this site of a decoder, for example layers.16")
    .option("--steering <program>", "steer the decoder: '0.5 happy@layers.12', JSON, or a JSON file")
    .option("--output-dtype <name>", "float32 or float16", "float32")
    .option("--compression <name>", "zstd, gzip or none", "zstd")
    .option("--queue <redis-url>", "hand shard ranges to workers through Redis")
    .option("--range-shards <n>", "shards of one range on the queue", positiveInteger, 4)
    .option("--shard-range <a..b|auto>", "only these shards; auto reads Slurm or Kubernetes variables")
    .option("--overwrite", "forget a run of this name and begin anew")
    .option("--on-error <what>", "a row that cannot be read: fail or skip", "fail")
    .option("--endpoint <url>", "embed by an OpenAI-compatible server (key in OPENAI_API_KEY)")
    .option("--prefix <text>", "text before every row, as instruction-tuned encoders want it")
    .option("--window-rows <n>", "rows sorted by length together", positiveInteger, 2048)
    .option("--threads <n>", "threads of an encoder process", positiveInteger)
    .option("--tokenizer-threads <n>", "tokeniser threads", positiveInteger)
    .option("--dataset-name <name>", "name in paths and manifest")
    .option("--model-name <name>", "name in paths and manifest");
}

export function register(program: Command): void {
  addEmbedOptions(program.command("embed-hf"))
    .description("embed a data set into Parquet shards; survives being killed (--resume)")
    .option("--json", "progress and result as JSON lines on stdout")
    .option("--metrics-file <path>", "keep Prometheus text in this file")
    .addHelpText(
      "after",
      `
Examples:
  $ chatspace-steer embed-hf --dataset ./texts --model ./all-MiniLM-L6-v2 --resume
  $ chatspace-steer embed-hf --dataset 'logs/**/*.jsonl.zst' --text-field body --shuffle-seed 1 --max-rows 10000
  $ chatspace-steer embed-hf --dataset user/chats --text-field conversation --extract-first-assistant
  $ chatspace-steer embed-hf --dataset ./texts --model model.pt --site layers.16 --pooling last

Ctrl-C once ends after the shards that are begun, twice ends now; either way --resume goes on.`,
    )
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const { parseShardRange } = await import("../../embed/shard-range.ts");
  const range = parseShardRange(flags.shardRange ?? null, process.env);
  const config = configOf(flags);
  if (flags.attention !== undefined) warn("--attention has no effect: the engine chooses its own attention");
  if (flags.queue !== undefined) {
    const { coordinate } = await import("../../embed/queue/coordinator.ts");
    const result = await withInterrupt(flags, (signals) =>
      coordinate(config, { queue: flags.queue as string, rangeShards: flags.rangeShards, ...signals }),
    );
    return finish(flags, result);
  }
  const { embedDataset } = await import("../../embed/run.ts");
  const { prepareRun } = await import("../../embed/prepare.ts");
  let shardRange = range.shardRange;
  if (range.count !== null) {
    const { positions, config: resolved } = await prepareRun(config, { count: true });
    shardRange = range.split(Math.ceil((positions ?? 0) / resolved.rowsPerShard));
    if (shardRange === null) {
      note("no shards are left for this task");
      return;
    }
  }
  const result = await withInterrupt(flags, (signals) => embedDataset({ ...config, shardRange }, signals));
  finish(flags, result);
}

function configOf(flags: Flags): EmbedConfig {
  const {
    progress: _p,
    json: _j,
    metricsFile: _m,
    queue: _q,
    rangeShards: _r,
    shardRange: _s,
    columns,
    ...rest
  } = flags;
  return {
    ...(rest as unknown as EmbedConfig),
    ...(columns === undefined ? {} : { columns: columns.split(",").map((name) => name.trim()) }),
  };
}

interface Signals {
  signal: AbortSignal;
  stop: AbortSignal;
  onProgress: (progress: EmbedProgress) => void;
}

/** First Ctrl-C: finish the shards that are begun. Second: now. */
async function withInterrupt<T>(flags: Flags, work: (signals: Signals) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const now = new AbortController();
  const onSignal = (): void => {
    if (stop.signal.aborted) now.abort(new InterruptError("interrupted"));
    else {
      stop.abort(new InterruptError("interrupted"));
      note("\nstopping after the shards that are begun; once more to stop now");
    }
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const view = progressView(flags);
  try {
    return await work({ signal: now.signal, stop: stop.signal, onProgress: view.show });
  } finally {
    await view.end();
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
  }
}

function progressView(flags: Flags): { show(progress: EmbedProgress): void; end(): Promise<void> } {
  const terminal = flags.progress && process.stderr.isTTY === true;
  const { metricsFile } = flags;
  let lastLine = 0;
  let metrics: Promise<void> = Promise.resolve();
  let busy = false;
  return {
    show(progress) {
      const nowMs = Date.now();
      if (metricsFile !== undefined && !busy) {
        busy = true;
        metrics = writeMetrics(metricsFile, progress, flags).finally(() => {
          busy = false;
        });
        metrics.catch(() => undefined);
      }
      if (terminal) process.stderr.write(`\r\u001b[2K${line(progress)}`);
      else if (nowMs - lastLine >= 10_000) {
        lastLine = nowMs;
        if (flags.json) printJsonLine({ type: "progress", ...progress });
        else if (flags.progress) note(line(progress));
      }
    },
    async end() {
      if (terminal) process.stderr.write("\r\u001b[2K");
      await metrics;
    },
  };
}

async function writeMetrics(path: string, progress: EmbedProgress, flags: Flags): Promise<void> {
  const { prometheusText } = await import("../../embed/progress.ts");
  const { writeFileAtomic } = await import("../../data/files.ts");
  await writeFileAtomic(path, [
    prometheusText(progress, { dataset: flags.dataset, split: String(flags.split) }),
  ]);
}

function line(p: EmbedProgress): string {
  const done = p.rows + p.skipped + p.resumedRows;
  const share = p.total === null || p.total === 0 ? "" : ` ${Math.floor((100 * done) / p.total)}%`;
  const left = p.etaSeconds === null ? "" : `, ${duration(p.etaSeconds)} left`;
  const queues = `${p.queues.loader}/${p.queues.encoder}/${p.queues.writer}`;
  return (
    `${done}${p.total === null ? "" : ` of ${p.total}`} rows${share}, ${p.shards} shards, ` +
    `${p.rowsPerSecond.toFixed(0)} rows/s, ${p.tokensPerSecond.toFixed(0)} tokens/s, ` +
    `padding ${(100 * p.paddingWaste).toFixed(1)}%, queues ${queues}${left}`
  );
}

function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function finish(flags: Flags, result: EmbedResult): void {
  if (flags.json) {
    const { status, manifestPath, runPath } = result;
    printJson({
      type: "result",
      status,
      shards: result.shards.length,
      manifest_path: manifestPath,
      run_path: runPath,
    });
  } else if (result.manifest !== null) {
    printLine(
      `${result.manifest.rows_total} rows (${result.manifest.rows_skipped} skipped) in ${result.shards.length} shards`,
    );
    printLine(`manifest ${result.manifestPath}`);
  } else printLine(`${result.shards.length} shards on disk`);
  if (result.status === "stopped") {
    note("stopped; go on with --resume");
    throw new ExitError(EXIT.interrupted);
  }
}
