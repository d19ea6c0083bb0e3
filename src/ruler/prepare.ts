// SPDX-License-Identifier: Apache-2.0
// Tasks to files: DIR/NAME/validation.jsonl as upstream lays them out, and beside each a record of how it was
// made, so that a second run can tell what it need not make again.

import { createHash } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { asWriteError, sha256OfFile, statOrNull, syncDirectory, writeFileAtomic } from "../data/files.ts";
import { misuse } from "../errors.ts";
import { openHaystacks } from "./data/haystacks.ts";
import { type GenerateOptions, generateRows, rowLine } from "./generate.ts";
import type { RulerRow } from "./tasks/setting.ts";
import type { Probe } from "./tasks/sizing.ts";
import { type RulerTask, selectTasks } from "./tasks/table.ts";
import type { TokenCounter } from "./tokens/counter.ts";
import { selectTokenizer } from "./tokens/select.ts";

export interface PrepareOptions extends Omit<GenerateOptions, "counter" | "data" | "onProbe"> {
  /** `all`, or names joined with commas, or a list of names. Default all. */
  readonly task?: string | readonly string[];
  /** What selectTokenizer takes, or a counter of one's own. */
  readonly tokenizer: string | TokenCounter;
  /** Folder with essays and questions; built-in text stands in for what is not there. */
  readonly data?: string;
  readonly output: string;
  /** Name of the files, default `validation`. */
  readonly subset?: string;
  /** Make files again that are there already. */
  readonly overwrite?: boolean;
  readonly signal?: AbortSignal;
  readonly onTask?: (done: PreparedTask) => void;
}

export interface PreparedTask {
  readonly task: string;
  readonly file: string;
  readonly rows: number;
  readonly sha256: string;
  /** Longest sample, in tokens, the answer's share included. */
  readonly longest: number;
  /** Where text came from, by part; only what the task used. */
  readonly sources: Readonly<Record<string, string>>;
  /** The file was there, made with the same settings, and is untouched. */
  readonly kept: boolean;
}

/** What stands in NAME/SUBSET.record.json. */
interface Recorded {
  readonly settings: string;
  readonly prepared: Omit<PreparedTask, "kept" | "file">;
  readonly probes: readonly Probe[];
}

/**
 * Writes the data of some tasks.
 *
 * @throws as generateRows and selectTokenizer; what was finished before stays written
 */
export async function prepareTasks(options: PrepareOptions): Promise<PreparedTask[]> {
  const tasks = selectTasks(options.task ?? "all");
  const { subset = "validation", signal } = options;
  if (!/^[\w-]+$/.test(subset))
    throw misuse(RangeError, "ERR_RULER_OPTION", "subset", "letters, digits, - and _", subset);
  const counter =
    typeof options.tokenizer === "string" ? await selectTokenizer(options.tokenizer) : options.tokenizer;
  const data = openHaystacks(options.data === undefined ? {} : { data: options.data });
  const results: PreparedTask[] = [];
  for (const task of tasks) {
    signal?.throwIfAborted();
    const file = join(options.output, task.name, `${subset}.jsonl`);
    const settings = JSON.stringify(settingsOf(options, task, counter));
    const kept = options.overwrite ? undefined : await stillGood(file, settings);
    const done = kept ?? (await prepareOne(task, file, settings, { ...options, counter, data }, signal));
    results.push(done);
    options.onTask?.(done);
  }
  return results;
}

async function prepareOne(
  task: RulerTask,
  file: string,
  settings: string,
  options: GenerateOptions,
  signal: AbortSignal | undefined,
): Promise<PreparedTask> {
  const probes: Probe[] = [];
  const rows = generateRows(task, { ...options, onProbe: (probe) => probes.push(probe) });
  const prepared = {
    task: task.name,
    ...(await writeRows(file, rows, signal)),
    sources: sourcesOf(task, options.data.sources),
  };
  const record: Recorded = { settings, prepared, probes };
  await writeFileAtomic(recordFile(file), [`${JSON.stringify(record, null, 2)}\n`]);
  return { ...prepared, file, kept: false };
}

/** Characters that go to the file at once. */
const HELD = 1 << 20;

/** Rows as they are made, to a file that is whole or not there: half a gigabyte at 128k tokens. */
async function writeRows(
  file: string,
  rows: Iterable<RulerRow>,
  signal: AbortSignal | undefined,
): Promise<{ rows: number; sha256: string; longest: number }> {
  await mkdir(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  const hash = createHash("sha256");
  let [count, longest, rested] = [0, 0, Date.now()];
  let held = "";
  const handle = await open(temporary, "w");
  const flush = async () => {
    hash.update(held);
    await handle.write(held);
    held = "";
  };
  try {
    for (const row of rows) {
      held += rowLine(row);
      if (held.length > HELD) await flush();
      count++;
      longest = Math.max(longest, row.length_w_model_temp);
      // Lets signals and timers through: making rows never waits by itself.
      if (Date.now() - rested > 50) {
        await new Promise((resolve) => setImmediate(resolve));
        rested = Date.now();
      }
      signal?.throwIfAborted();
    }
    await flush();
    await handle.sync();
    await handle.close();
    await rename(temporary, file);
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(temporary, { force: true });
    throw asWriteError(error, file);
  }
  await syncDirectory(dirname(file));
  return { rows: count, sha256: hash.digest("hex"), longest };
}

function sourcesOf(task: RulerTask, sources: ReadonlyMap<string, string>): Record<string, string> {
  const { settings } = task;
  const used: string[] = [];
  if (settings.kind === "qa") used.push(settings.dataset);
  if ("haystack" in settings && settings.haystack === "essay") used.push("essays");
  if (settings.kind === "common_words") used.push("english_words");
  return Object.fromEntries(
    used.filter((part) => sources.has(part)).map((part) => [part, sources.get(part)!]),
  );
}

/** Everything the bytes depend on. */
function settingsOf(options: PrepareOptions, task: RulerTask, counter: TokenCounter): object {
  const { length, samples = 500, seed = 42, modelTemplate = "base", data = null } = options;
  const { removeNewlineTab = false, chunkIndex = 0, chunkAmount = 1, prepareForNs = false } = options;
  return {
    ...{ task, tokenizer: counter.name, length, samples, seed, modelTemplate, data },
    ...{ removeNewlineTab, chunkIndex, chunkAmount, prepareForNs },
  };
}

function recordFile(file: string): string {
  return file.replace(/\.jsonl$/, ".record.json");
}

async function stillGood(file: string, settings: string): Promise<PreparedTask | undefined> {
  if ((await statOrNull(file)) === null) return undefined;
  try {
    const record = JSON.parse(await readFile(recordFile(file), "utf8")) as Recorded;
    if (record.settings !== settings || record.prepared.sha256 !== (await sha256OfFile(file)))
      return undefined;
    return { ...record.prepared, file, kept: true };
  } catch {
    // No record, or not one of ours: the file is made again.
    return undefined;
  }
}

/** `4096`, `4k` and `0.5k` as tokens; k is 1024 as RULER counts. */
export function parseLength(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kKmM]?)$/.exec(text.trim());
  const unit = match?.[2]?.toLowerCase();
  const value = match
    ? Number(match[1]) * (unit === "k" ? 1024 : unit === "m" ? 1024 * 1024 : 1)
    : Number.NaN;
  if (!Number.isInteger(value) || value < 1)
    throw misuse(RangeError, "ERR_RULER_OPTION", "length", "tokens, such as 4096, 4k or 128k", text);
  return value;
}

/** Name of a length for folders and tables: 4096 is `4k`. */
export function lengthName(length: number): string {
  return length % 1024 === 0 ? `${length / 1024}k` : String(length);
}
