// SPDX-License-Identifier: Apache-2.0
// Several runs side by side: scores by task and length, one series a run label, with counts and intervals. The
// numbers here, the page in report-page.ts.

import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { statOrNull } from "../data/files.ts";
import { DataError } from "../errors.ts";
import type { RunRecord } from "./run.ts";
import { scoreFolder, type TaskScore } from "./score.ts";
import { bootstrapDifference, type Interval } from "./statistics.ts";
import { SCORED_TASKS } from "./tasks/table.ts";

export interface ReportRun {
  readonly label: string;
  readonly length: number;
  readonly folder: string;
  readonly steered: boolean;
  readonly scores: readonly TaskScore[];
}

export interface ReportCell {
  readonly task: string;
  readonly length: number;
  readonly label: string;
  readonly score: number;
  readonly interval: Interval;
  readonly nulls: string;
}

/** Steered minus unsteered on the same prompts. */
export interface ReportDifference {
  readonly task: string;
  readonly length: number;
  readonly label: string;
  readonly against: string;
  readonly interval: Interval;
}

/** A label over all its lengths. */
export interface ReportOverall {
  readonly label: string;
  /** Plain mean over lengths. */
  readonly mean: number;
  /** Weighted 1, 2, 3, ... from the shortest length up: longer counts more. */
  readonly longer: number;
  /** Weighted the other way round. */
  readonly shorter: number;
  /** The longest length with an average of at least EFFECTIVE; undefined where none has. */
  readonly effectiveLength: number | undefined;
}

/** What Llama-2-7B-chat scores at 4k: RULER's bar for a length that counts as usable. */
export const EFFECTIVE = 85.6;

export interface Report {
  readonly labels: readonly string[];
  readonly lengths: readonly number[];
  readonly tasks: readonly string[];
  readonly cells: readonly ReportCell[];
  readonly differences: readonly ReportDifference[];
  /** Plain means over the tasks both a label and a length have. */
  readonly averages: ReadonlyArray<{ label: string; length: number; score: number; tasks: number }>;
  readonly overall: readonly ReportOverall[];
}

/** Opens run folders, or folders of run folders. Labels and lengths come from run.json. */
export async function openRuns(folders: readonly string[], data?: string): Promise<ReportRun[]> {
  const runs: ReportRun[] = [];
  for (const folder of folders)
    for (const found of await runFolders(folder)) {
      const record = await readRecord(found);
      const scores = await scoreFolder(found, data === undefined ? {} : { data });
      const longest = Math.max(...scores.flatMap((s) => s.rows.map((r) => r.length)));
      runs.push({
        label: record?.label ?? basename(found),
        length: record?.length ?? longest,
        folder: found,
        steered: Array.isArray(record?.generator.steering) && record.generator.steering.length > 0,
        scores,
      });
    }
  return runs;
}

async function runFolders(folder: string): Promise<string[]> {
  const names = await readdir(folder, { withFileTypes: true }).catch((cause: unknown) => {
    throw new DataError("ERR_FILE_UNREADABLE", `cannot read ${folder}: ${(cause as Error).message}`, {
      details: { folder },
      cause,
    });
  });
  const isRun = names.some((entry) =>
    SCORED_TASKS.some(({ name }) => entry.name.startsWith(name) && entry.name.endsWith(".jsonl")),
  );
  if (isRun) return [folder];
  const inner: string[] = [];
  for (const entry of names)
    if (entry.isDirectory() && !entry.name.startsWith("."))
      inner.push(...(await runFolders(join(folder, entry.name)).catch(() => [])));
  if (inner.length > 0) return inner.sort();
  throw new DataError("ERR_RULER_NO_PREDICTIONS", `${folder}: no run in it or below it`, {
    details: { folder },
    remedies: ["give the --output folders of `ruler run`"],
  });
}

async function readRecord(folder: string): Promise<RunRecord | undefined> {
  const file = join(folder, "run.json");
  if ((await statOrNull(file)) === null) return undefined;
  try {
    return JSON.parse(await readFile(file, "utf8")) as RunRecord;
  } catch (cause) {
    throw new DataError("ERR_RULER_PREDICTION_ROW", `${file}: not JSON`, {
      details: { file, folder: dirname(file) },
      remedies: ["take the file away: labels then come from folder names"],
      cause,
    });
  }
}

/** The report of some runs. A label and a length together name one run. */
export function buildReport(given: readonly ReportRun[]): Report {
  // Unsteered runs first: the others are read against them.
  const runs = [...given].sort((a, b) => Number(a.steered) - Number(b.steered) || a.length - b.length);
  const labels = [...new Set(runs.map((r) => r.label))];
  const lengths = [...new Set(runs.map((r) => r.length))].sort((a, b) => a - b);
  const has = (task: string) => runs.some((r) => r.scores.some((s) => s.task === task));
  const tasks = SCORED_TASKS.map((t) => t.name).filter(has);
  const seen = new Set<string>();
  for (const { label, length, folder } of runs) {
    const key = `${label}\n${length}`;
    if (seen.has(key))
      throw new DataError("ERR_RULER_REPORT", `two runs are named ${label} at ${length} tokens (${folder})`, {
        details: { label, length, folder },
        remedies: ["run one of them with another --label", "leave one out"],
      });
    seen.add(key);
  }
  const cells = runs.flatMap(({ label, length, scores }) =>
    scores.map(({ task, score, interval, nulls }) => ({ task, length, label, score, interval, nulls })),
  );
  const averages = runs.map(({ label, length, scores }) => ({
    label,
    length,
    score: scores.reduce((sum, s) => sum + s.score, 0) / scores.length,
    tasks: scores.length,
  }));
  const overall = labels.map((label) =>
    overallOf(
      label,
      averages.filter((a) => a.label === label),
    ),
  );
  return { labels, lengths, tasks, cells, differences: differencesOf(runs), averages, overall };
}

function overallOf(label: string, averages: ReadonlyArray<{ length: number; score: number }>): ReportOverall {
  const sorted = [...averages].sort((a, b) => a.length - b.length);
  const weighted = (weight: (i: number) => number) => {
    let [sum, weights] = [0, 0];
    sorted.forEach(({ score }, i) => {
      sum += score * weight(i);
      weights += weight(i);
    });
    return sum / weights;
  };
  return {
    label,
    mean: weighted(() => 1),
    longer: weighted((i) => i + 1),
    shorter: weighted((i) => sorted.length - i),
    effectiveLength: sorted.findLast((a) => a.score >= EFFECTIVE)?.length,
  };
}

function differencesOf(runs: readonly ReportRun[]): ReportDifference[] {
  const differences: ReportDifference[] = [];
  for (const base of runs.filter((r) => !r.steered))
    for (const other of runs.filter((r) => r !== base && r.length === base.length && r.steered))
      for (const a of base.scores) {
        const b = other.scores.find((s) => s.task === a.task);
        if (!b || !samePrompts(a, b)) continue;
        const points = (s: TaskScore) => s.samples.map((v) => v * 100);
        differences.push({
          task: a.task,
          length: base.length,
          label: other.label,
          against: base.label,
          interval: bootstrapDifference(points(a), points(b)),
        });
      }
  const order = SCORED_TASKS.map((t) => t.name);
  return differences.sort((a, b) => a.length - b.length || order.indexOf(a.task) - order.indexOf(b.task));
}

/** Pairs need the same samples in the same order. */
function samePrompts(a: TaskScore, b: TaskScore): boolean {
  const key = (s: TaskScore) => JSON.stringify(s.rows.map((r) => [r.id, r.outputs]));
  return key(a) === key(b);
}
