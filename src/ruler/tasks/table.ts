// SPDX-License-Identifier: Apache-2.0
// The thirteen tasks of RULER's synthetic benchmark, in upstream's order, which is also the column order of
// summary.csv.

import { misuse } from "../../errors.ts";
import { nearest } from "../../steering/nearest.ts";
import type { TaskKind } from "./templates.ts";

export type NeedleType = "words" | "numbers" | "uuids";

export interface NiahSettings {
  readonly kind: "niah";
  readonly haystack: "noise" | "essay" | "needle";
  readonly keyType: NeedleType;
  readonly valueType: NeedleType;
  readonly keys: number;
  readonly valuesPerKey: number;
  readonly queries: number;
}

export interface VariableTrackingSettings {
  readonly kind: "variable_tracking";
  readonly haystack: "noise" | "essay";
  readonly chains: number;
  readonly hops: number;
}

export interface CommonWordsSettings {
  readonly kind: "common_words";
  readonly commonRepeats: number;
  readonly uncommonRepeats: number;
  readonly common: number;
  readonly examples: number;
}

export interface FrequentWordsSettings {
  readonly kind: "frequent_words";
  readonly alpha: number;
  readonly wordLength: number;
  /** -1: from the length. */
  readonly vocabulary: number;
}

export interface QuestionSettings {
  readonly kind: "qa";
  readonly dataset: "squad" | "hotpotqa";
}

export type TaskSettings =
  | NiahSettings
  | VariableTrackingSettings
  | CommonWordsSettings
  | FrequentWordsSettings
  | QuestionSettings;

/** `set_match`, of the minimal tasks: what both sets share over what either has. */
export type Metric = "string_match_all" | "string_match_part" | "set_match";

/** What running and scoring need to know of a task, of the thirteen or a minimal one. */
export interface ScoredTask {
  readonly name: string;
  /** Tokens left free for the answer; of the thirteen, counted into the length. */
  readonly tokensToGenerate: number;
  readonly metric: Metric;
}

export interface RulerTask extends ScoredTask {
  readonly settings: TaskSettings;
}

const TOKENS_TO_GENERATE: Record<TaskKind, number> = {
  niah: 128,
  variable_tracking: 30,
  common_words: 120,
  frequent_words: 50,
  qa: 32,
};

function task(name: string, settings: TaskSettings): RulerTask {
  const metric = settings.kind === "qa" ? "string_match_part" : "string_match_all";
  return { name, settings, tokensToGenerate: TOKENS_TO_GENERATE[settings.kind], metric };
}

function niah(name: string, changes: Partial<NiahSettings>): RulerTask {
  return task(name, {
    kind: "niah",
    haystack: "essay",
    keyType: "words",
    valueType: "numbers",
    keys: 1,
    valuesPerKey: 1,
    queries: 1,
    ...changes,
  });
}

export const RULER_TASKS: readonly RulerTask[] = [
  niah("niah_single_1", { haystack: "noise" }),
  niah("niah_single_2", {}),
  niah("niah_single_3", { valueType: "uuids" }),
  niah("niah_multikey_1", { keys: 4 }),
  niah("niah_multikey_2", { haystack: "needle" }),
  niah("niah_multikey_3", { haystack: "needle", keyType: "uuids", valueType: "uuids" }),
  niah("niah_multivalue", { valuesPerKey: 4 }),
  // As many keys as queries are hidden.
  niah("niah_multiquery", { keys: 4, queries: 4 }),
  task("vt", { kind: "variable_tracking", haystack: "noise", chains: 1, hops: 4 }),
  task("cwe", { kind: "common_words", commonRepeats: 30, uncommonRepeats: 3, common: 10, examples: 1 }),
  task("fwe", { kind: "frequent_words", alpha: 2, wordLength: 6, vocabulary: -1 }),
  task("qa_1", { kind: "qa", dataset: "squad" }),
  task("qa_2", { kind: "qa", dataset: "hotpotqa" }),
];

/** The minimal variants, under names that cannot be taken for the thirteen. */
export const MINIMAL_TASKS: readonly ScoredTask[] = [
  { name: "minimal_niah", tokensToGenerate: 64, metric: "set_match" },
  { name: "minimal_variable_tracking", tokensToGenerate: 64, metric: "set_match" },
  { name: "minimal_common_words", tokensToGenerate: 64, metric: "set_match" },
];

/** The thirteen and the minimal ones, in the order of tables. */
export const SCORED_TASKS: readonly ScoredTask[] = [...RULER_TASKS, ...MINIMAL_TASKS];

/**
 * The tasks named by `all` or by names joined with commas, in the order of the list, each once.
 *
 * @throws RangeError ERR_RULER_TASK with the nearest names
 */
export function selectFrom<T extends ScoredTask>(
  tasks: readonly T[],
  names: string | readonly string[],
): T[] {
  const known = tasks.map((t) => t.name);
  const wanted = (typeof names === "string" ? names.split(",") : [...names])
    .map((n) => n.trim())
    .filter(Boolean);
  if (wanted.length === 0) throw unknownTask("", known);
  if (wanted.includes("all")) return [...tasks];
  for (const name of wanted) if (!known.includes(name)) throw unknownTask(name, known);
  return tasks.filter((t) => wanted.includes(t.name));
}

/** As selectFrom, of the thirteen. */
export function selectTasks(names: string | readonly string[]): RulerTask[] {
  return selectFrom(RULER_TASKS, names);
}

function unknownTask(name: string, known: readonly string[]): Error {
  const near = nearest(name, known);
  const hint = near.length > 0 ? `nearest: ${near.join(", ")}` : known.join(", ");
  return misuse(RangeError, "ERR_RULER_TASK", "task", `all or names of RULER tasks (${hint})`, name);
}
