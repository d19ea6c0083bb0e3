// SPDX-License-Identifier: Apache-2.0
// Upstream's scores of recorded predictions, and its two tables. Numbers are rounded as Python rounds.

import { join } from "node:path";
import { writeFileAtomic } from "../data/files.ts";
import { DataError } from "../errors.ts";
import { setMatch } from "./minimal/score.ts";
import {
  checkComplete,
  type PredictionRow,
  predictionFiles,
  readDataRows,
  readPredictions,
} from "./predictions.ts";
import { bootstrapMean, type Interval } from "./statistics.ts";
import { type Metric, RULER_TASKS, SCORED_TASKS } from "./tasks/table.ts";
import { strip } from "./text/python-text.ts";

export interface TaskScore {
  readonly task: string;
  /** 0 to 100, two places. */
  readonly score: number;
  /** Empty predictions and all, `2/5`. */
  readonly nulls: string;
  readonly metric: Metric;
  /** Each sample's share, 0 to 1. */
  readonly samples: readonly number[];
  /** Of the mean, in points of 100. */
  readonly interval: Interval;
  readonly rows: readonly ScoredRow[];
}

export interface ScoredRow {
  readonly id: unknown;
  readonly prediction: string;
  readonly outputs: readonly (string | null)[];
  readonly value: number;
  readonly length: number;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
const CONTROL = /[\x00-\x1f]/g;

/** What is compared: the prediction without outer white space, control characters as line ends. */
export function cleanPrediction(text: string): string {
  return strip(strip(text).replace(CONTROL, "\n"));
}

/** The share of references found (`string_match_all`), or 1 if any is (`string_match_part`). */
export function sampleScore(
  metric: Metric,
  prediction: string,
  references: readonly (string | null)[],
): number {
  const text = prediction.toLowerCase();
  const hits = references.map((r) => (text.includes((r ?? "").toLowerCase()) ? 1 : 0));
  if (metric === "string_match_part") return Math.max(0, ...hits);
  return hits.reduce<number>((a, b) => a + b, 0) / hits.length;
}

/** The mean of sample scores as upstream prints it. */
export function meanScore(samples: readonly number[]): number {
  let total = 0;
  for (const value of samples) total += value;
  return roundTwo((total / samples.length) * 100);
}

/** Python's round(x, 2): to the nearest, exact ties to even. */
export function roundTwo(x: number): number {
  // A double lies exactly between two hundredths only where it is an odd number of eighths.
  const tie = Number.isInteger(x * 8) && !Number.isInteger(x * 4);
  if (!tie) return Number(x.toFixed(2));
  const low = Math.floor(x * 100);
  return (low % 2 === 0 ? low : low + 1) / 100;
}

export function scoreTask(task: string, rows: readonly PredictionRow[]): TaskScore {
  const metric = SCORED_TASKS.find((t) => t.name === task)?.metric ?? "string_match_all";
  const scored = rows.map((row): ScoredRow => {
    const prediction = cleanPrediction(row.pred);
    const value =
      metric === "set_match"
        ? setMatch(task, row.outputs.join(", "), prediction, row.input).overlap
        : sampleScore(metric, prediction, row.outputs);
    return { id: row.others.id ?? row.index, prediction, outputs: row.outputs, value, length: row.length };
  });
  const samples = scored.map((row) => row.value);
  const empty = scored.filter((row) => row.prediction === "").length;
  const unscored = rows.length === 0 || rows[0]!.outputs[0] === null;
  return {
    task,
    score: unscored ? 0 : meanScore(samples),
    nulls: `${empty}/${rows.length}`,
    metric,
    samples,
    interval: bootstrapMean(samples.map((v) => v * 100)),
    rows: scored,
  };
}

export interface ScoreOptions {
  /** Folder with NAME/validation.jsonl: predictions must cover it exactly. */
  readonly data?: string;
  readonly subset?: string;
}

/**
 * Scores every prediction file of a folder.
 *
 * @throws DataError ERR_RULER_PREDICTION_ROW, _DOUBLED, _MISSING, ERR_RULER_NO_PREDICTIONS
 */
export async function scoreFolder(folder: string, options: ScoreOptions = {}): Promise<TaskScore[]> {
  const found = await predictionFiles(folder);
  if (found.length === 0)
    throw new DataError("ERR_RULER_NO_PREDICTIONS", `${folder}: no prediction file of a RULER task`, {
      details: { folder, expected: RULER_TASKS.map((t) => `${t.name}.jsonl`) },
      remedies: ["run `ruler run` first", "give the folder that holds the NAME.jsonl files"],
    });
  const scores: TaskScore[] = [];
  for (const { task, files } of found) {
    const rows: PredictionRow[] = [];
    for (const file of files) rows.push(...(await readPredictions(file)));
    if (options.data !== undefined) {
      const data = await readDataRows(join(options.data, task, `${options.subset ?? "validation"}.jsonl`));
      checkComplete(files.join(", "), rows, data);
    }
    scores.push(scoreTask(task, rows));
  }
  return scores;
}

/** The plain mean over tasks, as leaderboards form it. */
export function averageScore(scores: readonly TaskScore[]): number {
  let total = 0;
  for (const { score } of scores) total += score;
  return total / scores.length;
}

/** The thirteen alone: upstream's tables have no place for others. */
function benchmark(scores: readonly TaskScore[]): TaskScore[] {
  return scores.filter((s) => RULER_TASKS.some((t) => t.name === s.task));
}

/** summary.csv, byte for byte. */
export function summaryCsv(all: readonly TaskScore[]): string {
  const scores = benchmark(all);
  const lines = [
    ["0", ...scores.map((_, i) => String(i + 1))],
    ["Tasks", ...scores.map((s) => s.task)],
    ["Score", ...scores.map((s) => pythonFloat(s.score))],
    ["Nulls", ...scores.map((s) => s.nulls)],
  ];
  return lines.map((cells) => `${cells.map(csvCell).join(",")}\n`).join("");
}

/** submission.csv, byte for byte. */
export function submissionCsv(scores: readonly TaskScore[]): string {
  let text = "Task,ID,Prediction\n";
  for (const { task, rows } of benchmark(scores))
    for (const { id, prediction } of rows)
      text += `${[task, String(id), prediction].map(csvCell).join(",")}\n`;
  return text;
}

/** Writes summary.csv (of one task: summary-NAME.csv) and submission.csv into the folder; nothing for minimal tasks. */
export async function writeScores(
  folder: string,
  scores: readonly TaskScore[],
): Promise<{ summary: string; submission: string } | undefined> {
  const counted = benchmark(scores);
  if (counted.length === 0) return undefined;
  const summary = join(folder, counted.length > 1 ? "summary.csv" : `summary-${counted[0]!.task}.csv`);
  const submission = join(folder, "submission.csv");
  await writeFileAtomic(summary, [summaryCsv(scores)]);
  await writeFileAtomic(submission, [submissionCsv(scores)]);
  return { summary, submission };
}

function pythonFloat(value: number): string {
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

function csvCell(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
