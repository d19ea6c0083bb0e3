// SPDX-License-Identifier: Apache-2.0
// Prediction files: one JSON object a line, upstream's fields. Read with suspicion, since a score over missing,
// doubled or broken rows is a wrong number that looks right.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { DataError } from "../errors.ts";
import { SCORED_TASKS } from "./tasks/table.ts";

export interface PredictionRow {
  readonly index: number | string;
  readonly pred: string;
  /** The whole prompt, answer prefix included. */
  readonly input: string;
  readonly outputs: readonly (string | null)[];
  readonly others: Readonly<Record<string, unknown>>;
  readonly truncation: number;
  readonly length: number;
}

/** A line of NAME/validation.jsonl, as far as running and checking need it. */
export interface DataRow {
  readonly index: number;
  readonly input: string;
  readonly outputs: readonly string[];
  readonly length: number;
  readonly answer_prefix: string;
  readonly input_memory_instruction?: string;
  readonly input_memory_content?: string;
}

const REDO = "run it again with --resume: rows that are whole are kept";

/** @throws DataError ERR_RULER_PREDICTION_ROW with the line, ERR_RULER_PREDICTION_DOUBLED with both lines */
export async function readPredictions(file: string): Promise<PredictionRow[]> {
  const rows = await readLines(file, (value, line) => checkRow(value, file, line));
  const seen = new Map<string, number>();
  rows.forEach((row, i) => {
    // Indexes repeat in upstream's needle data; the prompt is what makes a row itself.
    const key = `${row.index}\n${row.input}`;
    const before = seen.get(key);
    if (before !== undefined)
      throw new DataError(
        "ERR_RULER_PREDICTION_DOUBLED",
        `${file}: lines ${before + 1} and ${i + 1} answer the same prompt (index ${row.index})`,
        {
          details: { file, lines: [before + 1, i + 1], index: row.index },
          remedies: ["keep one of them", REDO],
        },
      );
    seen.set(key, i);
  });
  return rows;
}

/** @throws DataError ERR_RULER_DATA_ROW */
export async function readDataRows(file: string): Promise<DataRow[]> {
  return readLines(file, (value, line) => {
    const row = value as Partial<DataRow>;
    const whole =
      isObject(value) &&
      typeof row.index === "number" &&
      typeof row.input === "string" &&
      typeof row.answer_prefix === "string" &&
      typeof row.length === "number" &&
      isTextList(row.outputs);
    if (!whole)
      throw new DataError("ERR_RULER_DATA_ROW", `${file}:${line}: not a row of RULER data`, {
        details: { file, line, expected: ["index", "input", "outputs", "length", "answer_prefix"] },
        remedies: ["make the file again with `ruler prepare --overwrite`"],
      });
    return row as DataRow;
  });
}

async function readLines<T>(file: string, check: (value: unknown, line: number) => T): Promise<T[]> {
  const rows: T[] = [];
  for (const { line, text, whole } of linesOf(await readWhole(file))) {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw rowError(
        file,
        line,
        whole ? "not JSON" : "not JSON (cut short: the last line has no end)",
        cause,
      );
    }
    rows.push(check(value, line));
  }
  return rows;
}

async function readWhole(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw new DataError("ERR_FILE_UNREADABLE", `cannot read ${file}: ${(cause as Error).message}`, {
      details: { file },
      cause,
    });
  }
}

/** Lines with something on them. Cut as bytes: files of long prompts are longer than a string may be. */
export function* linesOf(content: Buffer): Generator<{ line: number; text: string; whole: boolean }> {
  let start = 0;
  for (let line = 1; start < content.length; line++) {
    const end = content.indexOf(10, start);
    const text = content.toString("utf8", start, end < 0 ? content.length : end);
    if (text.trim() !== "") yield { line, text, whole: end >= 0 };
    start = end < 0 ? content.length : end + 1;
  }
}

function checkRow(value: unknown, file: string, line: number): PredictionRow {
  if (!isObject(value)) throw rowError(file, line, "not an object");
  const { index, pred, input, outputs, output, others = {}, truncation = -1, length = -1 } = value;
  if (typeof index !== "number" && typeof index !== "string") throw rowError(file, line, "no index");
  if (typeof pred !== "string")
    throw rowError(file, line, `pred is ${pred === undefined ? "missing" : "no text"}`);
  if (typeof input !== "string") throw rowError(file, line, "input is missing or no text");
  const references = outputs ?? [output ?? ""];
  if (
    !Array.isArray(references) ||
    references.length === 0 ||
    !references.every((r) => r === null || typeof r === "string")
  )
    throw rowError(file, line, "outputs is no list of texts");
  if (!isObject(others)) throw rowError(file, line, "others is no object");
  return {
    index,
    pred,
    input,
    outputs: references,
    others,
    truncation: Number(truncation),
    length: Number(length),
  };
}

function rowError(file: string, line: number, fault: string, cause?: unknown): DataError {
  return new DataError("ERR_RULER_PREDICTION_ROW", `${file}:${line}: ${fault}`, {
    details: { file, line, fault },
    remedies: ["take the line out, then run with --resume to answer that prompt again"],
    cause,
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTextList(value: unknown): boolean {
  return Array.isArray(value) && value.every((v) => typeof v === "string");
}

/** @throws DataError ERR_RULER_PREDICTION_MISSING where prompts of the data have no prediction, or others do */
export function checkComplete(file: string, rows: readonly PredictionRow[], data: readonly DataRow[]): void {
  const left = new Map<string, number>();
  for (const row of rows) left.set(row.input, (left.get(row.input) ?? 0) + 1);
  const missing: number[] = [];
  data.forEach((row, i) => {
    const prompt = row.input + row.answer_prefix;
    const count = left.get(prompt) ?? 0;
    if (count === 0) missing.push(i);
    else left.set(prompt, count - 1);
  });
  const strange = [...left.values()].reduce((sum, n) => sum + n, 0);
  if (missing.length === 0 && strange === 0) return;
  const first = missing.slice(0, 5).map((i) => i + 1);
  const parts = [
    ...(missing.length > 0
      ? [
          `${missing.length} of ${data.length} prompts have no prediction (data line ${first.join(", ")}${missing.length > 5 ? ", ..." : ""})`,
        ]
      : []),
    ...(strange > 0 ? [`${strange} predictions are for prompts the data does not have`] : []),
  ];
  throw new DataError("ERR_RULER_PREDICTION_MISSING", `${file}: ${parts.join("; ")}`, {
    details: { file, missing: missing.length, strange, dataLines: first },
    remedies: [REDO, "give the --data the predictions were made from"],
  });
}

/** Files of a prediction folder by task, in the benchmark's order; chunk files (NAME-0.jsonl, ...) joined. */
export async function predictionFiles(folder: string): Promise<Array<{ task: string; files: string[] }>> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (cause) {
    throw new DataError("ERR_FILE_UNREADABLE", `cannot read ${folder}: ${(cause as Error).message}`, {
      details: { folder },
      cause,
    });
  }
  return SCORED_TASKS.flatMap(({ name }) => {
    // Upstream joins chunks in the order of their names as text: -10 before -2.
    const chunks = names
      .filter((n) => n.startsWith(`${name}-`) && /^\d+\.jsonl$/.test(n.slice(name.length + 1)))
      .sort();
    const whole = names.includes(`${name}.jsonl`) ? [`${name}.jsonl`] : [];
    if (chunks.length > 0 && whole.length > 0)
      throw new DataError("ERR_RULER_PREDICTION_DOUBLED", `${folder}: both ${name}.jsonl and ${chunks[0]}`, {
        details: { folder, files: [...whole, ...chunks] },
        remedies: ["keep the whole file or its chunks"],
      });
    const files = [...whole, ...chunks].map((n) => join(folder, n));
    return files.length > 0 ? [{ task: name, files }] : [];
  });
}
