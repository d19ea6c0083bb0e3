// SPDX-License-Identifier: Apache-2.0
// Everything the generators read: word lists, essays, questions. Files are opened when a task first asks.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DataError } from "../../errors.ts";
import { sentences } from "../text/punkt.ts";
import { collapseSpace, strip } from "../text/python-text.ts";
import { builtInEssays } from "./built-in-essays.ts";
import { builtInQuestions } from "./built-in-questions.ts";
import { type QuestionSet, readHotpot, readSquad } from "./questions.ts";
import { allWords, pairedWords } from "./words.ts";

/** What a task can ask for. */
export interface Haystacks {
  readonly pairedWords: number;
  pairedWord(index: number): string;
  words(): readonly string[];
  /** The large English list; for lists of more words than `words()` has. */
  manyWords(size: number): readonly string[];
  /** Sentences of the first n essay words; the essays again from the start where they end, unless `once`. */
  essaySentences(words: number, repeat?: "repeat" | "once"): readonly string[];
  questions(dataset: "squad" | "hotpotqa"): QuestionSet;
  /** Which source each part came from, for the record beside the data. */
  readonly sources: ReadonlyMap<DataPart, string>;
}

export type DataPart = "essays" | "squad" | "hotpotqa" | "english_words";

export const BUILT_IN = "built-in";

/** Names a part's file may bear, upstream's first. */
const FILES: Record<DataPart, readonly RegExp[]> = {
  essays: [/^PaulGrahamEssays\.json$/, /^PaulGrahamEssays.*\.json$/, /^essays.*\.(json|txt)$/],
  squad: [/^squad\.json$/, /^dev-v2\.0\.json$/, /^squad.*\.json$/],
  hotpotqa: [/^hotpotqa\.json$/, /^hotpot_dev_distractor_v1\.json$/, /^hotpot.*\.json$/],
  english_words: [/^english_words\.json$/],
};

function folderNames(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (cause) {
    throw new DataError("ERR_RULER_DATA", `--data ${folder}: not a folder that can be read`, {
      details: { folder },
      remedies: ["run `chatspace-steer ruler data --output DIR` first", "leave --data out for built-in text"],
      cause,
    });
  }
}

/** A part's file in a folder; undefined where there is none. */
export function findDataFile(folder: string, part: DataPart): string | undefined {
  const names = folderNames(folder);
  for (const pattern of FILES[part]) {
    const found = names.filter((name) => pattern.test(name));
    if (found.length > 1)
      throw new DataError(
        "ERR_RULER_DATA",
        `${folder}: more than one file for ${part}: ${found.join(", ")}`,
        {
          details: { folder, part, found },
          remedies: ["keep the one that is meant"],
        },
      );
    if (found[0] !== undefined) return join(folder, found[0]);
  }
  return undefined;
}

export interface HaystackOptions {
  /** Folder with PaulGrahamEssays.json, squad.json, hotpotqa.json, english_words.json; each may be absent. */
  readonly data?: string;
}

/** Haystacks from a folder, built-in text standing in for essays and questions that are not there. */
export function openHaystacks(options: HaystackOptions = {}): Haystacks {
  const { data } = options;
  if (data !== undefined) folderNames(data);
  const sources = new Map<DataPart, string>();
  const once = <T>(make: () => T) => {
    let value: T | undefined;
    return () => {
      value ??= make();
      return value;
    };
  };
  const part = (name: DataPart) => (data === undefined ? undefined : findDataFile(data, name));

  const essayWords = once(() => {
    const file = part("essays");
    sources.set("essays", file ?? BUILT_IN);
    const text = file === undefined ? builtInEssays() : readEssays(file);
    return collapseSpace(text).split(" ");
  });
  const squad = once(() => {
    const file = part("squad");
    sources.set("squad", file ?? BUILT_IN);
    return file === undefined ? builtInQuestions("squad") : readSquad(readJson(file), file);
  });
  const hotpot = once(() => {
    const file = part("hotpotqa");
    sources.set("hotpotqa", file ?? BUILT_IN);
    return file === undefined ? builtInQuestions("hotpotqa") : readHotpot(readJson(file), file);
  });
  const many = once(() => {
    const file = part("english_words");
    if (file === undefined) throw missingWords();
    sources.set("english_words", file);
    return Object.values(readJson(file) as Record<string, string>);
  });
  const cut = new Map<string, readonly string[]>();

  return {
    sources,
    pairedWords: pairedWords().size,
    pairedWord: (index) => pairedWords().at(index),
    words: allWords,
    manyWords(size) {
      const words = many();
      if (words.length < size) throw missingWords();
      return words;
    },
    essaySentences(count, repeat = "repeat") {
      const key = `${count} ${repeat}`;
      let found = cut.get(key);
      if (!found) {
        const words = essayWords();
        const taken =
          count <= words.length || repeat === "once"
            ? words.slice(0, count)
            : Array.from({ length: count }, (_, i) => words[i % words.length]!);
        found = sentences(strip(taken.join(" ")));
        if (cut.size >= 32) cut.delete(cut.keys().next().value!);
        cut.set(key, found);
      }
      return found;
    },
    questions: (dataset) => (dataset === "squad" ? squad() : hotpot()),
  };
}

function readEssays(file: string): string {
  if (file.endsWith(".txt")) return readText(file);
  const { text } = readJson(file) as { text?: unknown };
  if (typeof text !== "string" || text === "")
    throw new DataError("ERR_RULER_DATA", `${file}: expected {"text": "..."} with the essays`, {
      details: { file },
    });
  return text;
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new DataError("ERR_RULER_DATA", `${file}: cannot be read`, { details: { file }, cause });
  }
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readText(file));
  } catch (cause) {
    if (cause instanceof DataError) throw cause;
    throw new DataError("ERR_RULER_DATA", `${file}: not JSON: ${(cause as Error).message}`, {
      details: { file },
      remedies: ["fetch it again with `chatspace-steer ruler data`"],
      cause,
    });
  }
}

function missingWords(): DataError {
  return new DataError(
    "ERR_RULER_DATA",
    "cwe at this length needs more words than the built-in list has: english_words.json is not in --data",
    {
      details: { part: "english_words" },
      remedies: ["run `chatspace-steer ruler data --only english_words --output DIR` and give --data DIR"],
    },
  );
}
