// SPDX-License-Identifier: Apache-2.0
// Puts prompts to whatever answers them and keeps every answer as it comes: a journal line a sample, the
// prediction file whole and in order at the end. What breaks off goes on with `resume`.

import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { statOrNull, writeFileAtomic } from "../data/files.ts";
import { JournalWriter, readJournal } from "../data/journal.ts";
import { DataError, misuse } from "../errors.ts";
import { type DataRow, linesOf, type PredictionRow, readDataRows } from "./predictions.ts";
import { SCORED_TASKS, type ScoredTask, selectFrom } from "./tasks/table.ts";
import { pythonJson } from "./text/python-text.ts";

/** A prompt whole and in its two parts: what the user says, and how the answer begins. */
export interface RulerPrompt {
  readonly text: string;
  readonly input: string;
  readonly answerPrefix: string;
  /** Of minimal tasks: the instruction with a pad, and the context between memory markers. */
  readonly memory?: { readonly instruction: string; readonly content: string };
}

export interface GenerateCall {
  readonly maxTokens: number;
  readonly signal: AbortSignal;
}

/** Whatever continues prompts: a model in this process, a server, a test. */
export interface Generator {
  /** What the answers depend on, for the journal: a run goes on only with the same. */
  readonly identity: Readonly<Record<string, unknown>>;
  /** Prompts of one call. */
  readonly batch: number;
  /** Calls at once. */
  readonly concurrency: number;
  /** One text for each prompt. @throws signal.reason; whatever ends the run */
  generate(prompts: readonly RulerPrompt[], call: GenerateCall): Promise<string[]>;
}

export interface RunOptions {
  /** Folder of `ruler prepare`, with NAME/validation.jsonl. */
  readonly data: string;
  readonly output: string;
  readonly generator: Generator;
  /** Default: every task the data folder has. */
  readonly task?: string | readonly string[];
  readonly subset?: string;
  /** Go on from the journal. */
  readonly resume?: boolean;
  /** Throw away what an earlier run left. */
  readonly overwrite?: boolean;
  /** First samples of each task only. */
  readonly limit?: number;
  /** In place of the task's own number of tokens to generate (a model that thinks first needs more). */
  readonly maxTokens?: number;
  /** Name of the run in reports. */
  readonly label?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: RunProgress) => void;
}

export interface RunProgress {
  readonly task: string;
  readonly done: number;
  readonly total: number;
}

export interface FinishedTask {
  readonly task: string;
  readonly file: string;
  readonly rows: number;
  /** Of those, answered by an earlier run. */
  readonly resumed: number;
}

/** What stands in run.json beside the predictions; reports read it. */
export interface RunRecord {
  readonly label: string;
  readonly length: number;
  readonly tasks: readonly string[];
  readonly generator: Readonly<Record<string, unknown>>;
}

interface Answer {
  readonly sample: number;
  readonly pred: string;
}

/**
 * Answers the prompts of some tasks.
 *
 * @throws DataError ERR_RULER_OUTPUT_EXISTS, ERR_RULER_RESUME, ERR_RULER_DATA_ROW; what the generator throws.
 *   Answers that came before stay in the journal.
 */
export async function runTasks(options: RunOptions): Promise<FinishedTask[]> {
  const { data, output, generator, subset = "validation", signal } = options;
  const tasks = await tasksWithData(options);
  const finished: FinishedTask[] = [];
  let longest = 0;
  for (const task of tasks) {
    signal?.throwIfAborted();
    const file = join(data, task.name, `${subset}.jsonl`);
    const rows = (await readDataRows(file)).slice(0, options.limit);
    for (const row of rows) longest = Math.max(longest, row.length);
    const length = await recordedLength(file);
    finished.push(await runTask(task, rows, options));
    const record: RunRecord = {
      label: options.label ?? String(generator.identity.model ?? "run"),
      length: length ?? longest,
      tasks: finished.map((f) => f.task),
      generator: generator.identity,
    };
    await writeFileAtomic(join(output, "run.json"), [`${JSON.stringify(record, null, 2)}\n`]);
  }
  return finished;
}

async function tasksWithData(options: RunOptions): Promise<ScoredTask[]> {
  const { data, subset = "validation" } = options;
  const wanted = selectFrom(SCORED_TASKS, options.task ?? "all");
  const present: ScoredTask[] = [];
  for (const task of wanted)
    if ((await statOrNull(join(data, task.name, `${subset}.jsonl`))) !== null) present.push(task);
  const named = options.task !== undefined && options.task !== "all";
  const missing = wanted.filter((task) => !present.includes(task)).map((task) => task.name);
  if (present.length === 0 || (named && missing.length > 0))
    throw new DataError("ERR_RULER_NO_DATA", `${data}: no data for ${missing.join(", ")}`, {
      details: { folder: data, missing, subset },
      remedies: [`make it: chatspace-steer ruler prepare --task ${missing.join(",")} --output ${data} ...`],
    });
  return present;
}

async function runTask(
  task: ScoredTask,
  rows: readonly DataRow[],
  options: RunOptions,
): Promise<FinishedTask> {
  const { output, generator } = options;
  const file = join(output, `${task.name}.jsonl`);
  const journalFile = join(output, ".journal", `${task.name}.jsonl`);
  const maxTokens = options.maxTokens ?? task.tokensToGenerate;
  const header = {
    task: task.name,
    prompts: hashOf(rows),
    maxTokens,
    generator: generator.identity,
  };
  const earlier = await earlierAnswers(file, journalFile, header, rows, options);
  const { answers } = earlier;
  const resumed = answers.size;
  const report = () => options.onProgress?.({ task: task.name, done: answers.size, total: rows.length });
  report();
  const journal = await JournalWriter.open(journalFile);
  try {
    if (!earlier.recorded) {
      await journal.append(header);
      for (const [sample, pred] of answers) await journal.append({ sample, pred } satisfies Answer);
    }
    const open = rows.map((_, i) => i).filter((i) => !answers.has(i));
    await answerAll(open, rows, generator, maxTokens, options.signal, async (sample, pred) => {
      await journal.append({ sample, pred } satisfies Answer);
      answers.set(sample, pred);
      report();
    });
  } finally {
    await journal.close();
  }
  const lines = rows.map((row, i) => `${pythonJson(predictionOf(row, answers.get(i)!))}\n`);
  await writeFileAtomic(file, lines);
  return { task: task.name, file, rows: rows.length, resumed };
}

/** Workers take batches until none is left or one fails; answers of the others still come in. */
async function answerAll(
  open: number[],
  rows: readonly DataRow[],
  generator: Generator,
  maxTokens: number,
  outer: AbortSignal | undefined,
  keep: (sample: number, pred: string) => Promise<void>,
): Promise<void> {
  const never = new AbortController();
  const signal = outer ?? never.signal;
  let failed: { error: unknown } | undefined;
  let writing = Promise.resolve();
  const work = async () => {
    while (!failed && !signal.aborted) {
      const batch = open.splice(0, generator.batch);
      if (batch.length === 0) return;
      try {
        const prompts = batch.map((i) => promptOf(rows[i]!));
        const texts = await generator.generate(prompts, { maxTokens, signal });
        if (texts.length !== batch.length)
          throw misuse(RangeError, "ERR_RULER_GENERATOR", "generate", `${batch.length} texts`, texts.length);
        // One after the other, so that the journal's lines are whole.
        writing = writing.then(async () => {
          for (let j = 0; j < batch.length; j++) await keep(batch[j]!, texts[j]!);
        });
        await writing;
      } catch (error) {
        failed ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: generator.concurrency }, work));
  await writing;
  signal.throwIfAborted();
  if (failed) throw failed.error;
}

function hashOf(rows: readonly DataRow[]): string {
  const hash = createHash("sha256");
  for (const { input, answer_prefix } of rows) hash.update(`${input}${answer_prefix}\n`);
  return hash.digest("hex");
}

function promptOf(row: DataRow): RulerPrompt {
  const { input, answer_prefix: answerPrefix } = row;
  const { input_memory_instruction: instruction, input_memory_content: content } = row;
  const memory =
    instruction !== undefined && content !== undefined ? { memory: { instruction, content } } : {};
  return { text: input + answerPrefix, input, answerPrefix, ...memory };
}

function predictionOf(row: DataRow, pred: string): PredictionRow {
  const { index, outputs, length } = row;
  return { index, pred, input: row.input + row.answer_prefix, outputs, others: {}, truncation: -1, length };
}

interface Earlier {
  readonly answers: Map<number, string>;
  /** The journal has its header, and these answers after it. */
  readonly recorded: boolean;
}

async function earlierAnswers(
  file: string,
  journalFile: string,
  header: object,
  rows: readonly DataRow[],
  options: RunOptions,
): Promise<Earlier> {
  const answers = new Map<number, string>();
  if (options.overwrite) {
    await rm(journalFile, { force: true });
    await rm(file, { force: true });
    return { answers, recorded: false };
  }
  const [first, ...entries] = await readJournal<Answer>(journalFile);
  const hasFile = (await statOrNull(file)) !== null;
  if (first === undefined && !hasFile) return { answers, recorded: false };
  if (!options.resume)
    throw new DataError(
      "ERR_RULER_OUTPUT_EXISTS",
      `${hasFile ? file : journalFile}: an earlier run is there`,
      {
        details: { file, journal: journalFile, answers: entries.length },
        remedies: ["--resume goes on with it", "--overwrite begins anew", "give another --output"],
      },
    );
  if (first !== undefined) {
    if (JSON.stringify(first) !== JSON.stringify(header)) throw otherRun(journalFile, first, header);
    for (const { sample, pred } of entries) if (sample < rows.length) answers.set(sample, pred);
    return { answers, recorded: true };
  }
  return { answers: await fromPredictions(file, rows), recorded: false };
}

/** Answers of a prediction file with no journal, row by row; broken rows are asked again. */
async function fromPredictions(file: string, rows: readonly DataRow[]): Promise<Map<number, string>> {
  const byPrompt = new Map<string, string>();
  for (const { text } of linesOf(await readFile(file))) {
    try {
      const { input, pred } = JSON.parse(text) as PredictionRow;
      if (typeof input === "string" && typeof pred === "string") byPrompt.set(input, pred);
    } catch {
      // A broken row is as good as none.
    }
  }
  const answers = new Map<number, string>();
  rows.forEach((row, i) => {
    const pred = byPrompt.get(row.input + row.answer_prefix);
    if (pred !== undefined) answers.set(i, pred);
  });
  return answers;
}

function otherRun(journalFile: string, there: object, now: object): DataError {
  const differing = Object.keys(now).filter(
    (key) => JSON.stringify(there[key as never]) !== JSON.stringify(now[key as never]),
  );
  return new DataError("ERR_RULER_RESUME", `${journalFile}: made with another ${differing.join(", ")}`, {
    details: { journal: journalFile, differing, there, now },
    remedies: [
      "resume with the settings of the first run",
      "--overwrite begins anew",
      "give another --output",
    ],
  });
}

async function recordedLength(dataFile: string): Promise<number | undefined> {
  try {
    const record = JSON.parse(await readFile(dataFile.replace(/\.jsonl$/, ".record.json"), "utf8"));
    return (JSON.parse((record as { settings: string }).settings) as { length: number }).length;
  } catch {
    return undefined;
  }
}
