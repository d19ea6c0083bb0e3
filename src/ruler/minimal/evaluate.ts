// SPDX-License-Identifier: Apache-2.0
// Scores of answers that were made elsewhere, say by a model that read the context compressed: a reference file of
// `ruler prepare --minimal` (or of the original), a file of { index, pred } rows, joined by index.

import { readFile } from "node:fs/promises";
import { DataError } from "../../errors.ts";
import { linesOf } from "../predictions.ts";
import { roundTwo } from "../score.ts";
import { bootstrapMean, type Interval } from "../statistics.ts";
import { type SetMatch, setMatch } from "./score.ts";

export interface MinimalScore {
  readonly task: string;
  readonly samples: number;
  /** Means over samples, out of 100. */
  readonly overlap: number;
  readonly recall: number;
  readonly precision: number;
  /** Share of samples whose sets are equal. */
  readonly exact: number;
  /** Of the overlap. */
  readonly interval: Interval;
  readonly rows: ReadonlyArray<SetMatch & { index: number }>;
}

/**
 * @throws DataError ERR_RULER_PREDICTION_ROW, _DOUBLED, _MISSING; ERR_RULER_DATA_ROW for the reference
 */
export async function scoreMinimalFiles(
  task: string,
  reference: string,
  predictions: string,
): Promise<MinimalScore> {
  const wanted = new Map<number, { outputs: string; input: string }>();
  for (const { line, value } of await objects(reference, "ERR_RULER_DATA_ROW")) {
    const { index, outputs, input } = value;
    const whole = typeof index === "number" && Array.isArray(outputs) && typeof input === "string";
    if (!whole) throw fault("ERR_RULER_DATA_ROW", reference, line, "expected index, input and outputs");
    wanted.set(index, { outputs: outputs.join(", "), input });
  }
  const found = new Map<number, string>();
  for (const { line, value } of await objects(predictions, "ERR_RULER_PREDICTION_ROW")) {
    const { index, pred } = value;
    if (typeof index !== "number" || typeof pred !== "string")
      throw fault("ERR_RULER_PREDICTION_ROW", predictions, line, "expected a number index and a text pred");
    if (found.has(index))
      throw fault("ERR_RULER_PREDICTION_DOUBLED", predictions, line, `index ${index} came before`);
    found.set(index, pred);
  }
  const missing = [...wanted.keys()].filter((index) => !found.has(index));
  const strange = [...found.keys()].filter((index) => !wanted.has(index));
  if (missing.length > 0 || strange.length > 0)
    throw new DataError(
      "ERR_RULER_PREDICTION_MISSING",
      `${predictions}: ${missing.length} of ${wanted.size} samples have no prediction, ${strange.length} predictions are for no sample`,
      {
        details: { file: predictions, missing, strange },
        remedies: ["answer the missing samples", "check --ref"],
      },
    );
  const rows = [...wanted].map(([index, { outputs, input }]) => ({
    index,
    ...setMatch(task, outputs, found.get(index)!, input),
  }));
  const mean = (of: (row: SetMatch) => number) =>
    roundTwo((rows.reduce((sum, row) => sum + of(row), 0) / Math.max(1, rows.length)) * 100);
  return {
    ...{ task, samples: rows.length, rows },
    overlap: mean((row) => row.overlap),
    recall: mean((row) => row.recall),
    precision: mean((row) => row.precision),
    exact: mean((row) => (row.exact ? 1 : 0)),
    interval: bootstrapMean(rows.map((row) => row.overlap * 100)),
  };
}

async function objects(
  file: string,
  code: string,
): Promise<Array<{ line: number; value: Record<string, unknown> }>> {
  const content = await readFile(file).catch((cause: unknown) => {
    throw new DataError("ERR_FILE_UNREADABLE", `cannot read ${file}: ${(cause as Error).message}`, {
      details: { file },
      cause,
    });
  });
  return Array.from(linesOf(content), ({ line, text }) => {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw fault(code, file, line, "not JSON", cause);
    }
    if (typeof value !== "object" || value === null) throw fault(code, file, line, "not an object");
    return { line, value: value as Record<string, unknown> };
  });
}

function fault(code: string, file: string, line: number, what: string, cause?: unknown): DataError {
  return new DataError(code, `${file}:${line}: ${what}`, { details: { file, line, fault: what }, cause });
}
