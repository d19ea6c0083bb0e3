// SPDX-License-Identifier: Apache-2.0
// What a vector costs at each length: the same prompts with and without it, and the difference per task with its
// interval.

import { join } from "node:path";
import { readPredictions } from "./predictions.ts";
import { lengthName, type PrepareOptions, prepareTasks } from "./prepare.ts";
import { type Generator, type RunProgress, runTasks } from "./run.ts";
import { scoreTask } from "./score.ts";
import { bootstrapDifference, bootstrapMean, type Interval } from "./statistics.ts";

export interface CostOptions extends Omit<PrepareOptions, "length" | "onTask"> {
  readonly lengths: readonly number[];
  readonly plain: Generator;
  readonly steered: Generator;
  readonly resume?: boolean;
  readonly maxTokens?: number;
  readonly onProgress?: (progress: RunProgress & { length: number; steered: boolean }) => void;
}

export interface CostRow {
  readonly task: string;
  readonly length: number;
  readonly samples: number;
  readonly plain: Interval;
  readonly steered: Interval;
  /** Steered minus plain, in points of 100, over pairs. */
  readonly difference: Interval;
  /** Two-sided p-value of the difference by flipping signs of the pairs, exact up to 12 pairs that differ. */
  readonly p: number;
}

/**
 * Prepares, runs twice, compares. Everything lies under `output`: LENGTH/data, LENGTH/plain, LENGTH/steered.
 * Rows of task `all` are means over the tasks.
 */
export async function measureCost(options: CostOptions): Promise<CostRow[]> {
  const rows: CostRow[] = [];
  for (const length of options.lengths) {
    const folder = join(options.output, lengthName(length));
    const data = join(folder, "data");
    const prepared = await prepareTasks({ ...options, length, output: data });
    const task = prepared.map((p) => p.task);
    const runOne = async (generator: Generator, name: "plain" | "steered") => {
      const { signal, resume, overwrite, maxTokens, onProgress } = options;
      await runTasks({
        ...{ data, output: join(folder, name), generator, task, label: name },
        ...(signal ? { signal } : {}),
        ...(resume === undefined ? {} : { resume }),
        ...(overwrite === undefined ? {} : { overwrite }),
        ...(maxTokens === undefined ? {} : { maxTokens }),
        ...(onProgress
          ? { onProgress: (p: RunProgress) => onProgress({ ...p, length, steered: name === "steered" }) }
          : {}),
      });
    };
    await runOne(options.plain, "plain");
    await runOne(options.steered, "steered");
    const all: Array<{ a: number[]; b: number[] }> = [];
    for (const name of task) {
      const points = async (run: string) =>
        scoreTask(name, await readPredictions(join(folder, run, `${name}.jsonl`))).samples.map(
          (v) => v * 100,
        );
      const a = await points("plain");
      const b = await points("steered");
      all.push({ a, b });
      rows.push(costRow(name, length, a, b));
    }
    if (task.length > 1)
      rows.push(
        costRow(
          "all",
          length,
          all.flatMap((t) => t.a),
          all.flatMap((t) => t.b),
        ),
      );
  }
  return rows;
}

function costRow(task: string, length: number, a: readonly number[], b: readonly number[]): CostRow {
  return {
    task,
    length,
    samples: a.length,
    plain: bootstrapMean(a),
    steered: bootstrapMean(b),
    difference: bootstrapDifference(a, b),
    p: signFlip(a.map((value, i) => b[i]! - value)),
  };
}

/** Fisher's randomisation test of a mean of zero; 4096 draws where not all flips can be tried. */
export function signFlip(differences: readonly number[]): number {
  const moved = differences.filter((d) => d !== 0);
  if (moved.length === 0) return 1;
  const total = (flips: (i: number) => boolean) => moved.reduce((s, d, i) => s + (flips(i) ? -d : d), 0);
  const seen = Math.abs(total(() => false)) - 1e-9;
  if (moved.length <= 12) {
    const all = 2 ** moved.length;
    let hits = 0;
    for (let bits = 0; bits < all; bits++)
      if (Math.abs(total((i) => ((bits >> i) & 1) === 1)) >= seen) hits++;
    return hits / all;
  }
  // A small fixed linear congruential stream: the same pairs give the same p.
  let state = 42;
  const bit = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state > 0x7fffffff;
  };
  let hits = 0;
  for (let draw = 0; draw < 4096; draw++) if (Math.abs(total(bit)) >= seen) hits++;
  return (hits + 1) / 4097;
}
