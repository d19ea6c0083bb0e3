// SPDX-License-Identifier: Apache-2.0
// The minimal variants: three small tasks whose context is also given apart, between memory markers, for models
// that read compressed prompts. Texts and parameters after Code-LLaVA eval's ruler_minimal.

import { misuse } from "../../errors.ts";
import { nearest } from "../../steering/nearest.ts";
import { PythonRandom } from "../random/python.ts";

export type MinimalKind = "niah" | "variable_tracking" | "common_words";

export const MINIMAL_KINDS: readonly MinimalKind[] = ["niah", "variable_tracking", "common_words"];

/** Stands in the instruction where the server puts the embedding. */
export const MEMORY_PAD = "<|fim_pad|>";
export const MEMORY_START = "<|memory_start|>";
export const MEMORY_END = "<|memory_end|>";

export interface MinimalOptions {
  /** Default 20. */
  readonly samples?: number;
  /** Rough size of the context, about 40 characters of text a unit. Default 2048. */
  readonly length?: number;
  readonly keys?: number;
  readonly valuesPerKey?: number;
  readonly chains?: number;
  readonly hops?: number;
  readonly common?: number;
  readonly commonRepeats?: number;
  readonly rareRepeats?: number;
  readonly vocabulary?: number;
  readonly seed?: number;
}

export interface MinimalRow {
  readonly index: number;
  /** Instruction and context in one text. */
  readonly input: string;
  /** One text: `key: v1, v2; key2: v3`, `A, B, C`, `w1, w2`. */
  readonly outputs: readonly [string];
  /** The instruction with the pad in the context's place. */
  readonly input_memory_instruction: string;
  /** The context between its markers. */
  readonly input_memory_content: string;
  readonly length: number;
  readonly answer_prefix: "";
}

const FILLERS = [
  "The grass is green.",
  "The sky is blue.",
  "The sun is yellow.",
  "Here we go.",
  "There and back again.",
  "Nothing of note happened there.",
];
const LOWER = "abcdefghijklmnopqrstuvwxyz";
const UPPER = LOWER.toUpperCase();

interface Parts {
  readonly instruction: string;
  readonly context: string;
  readonly question: string;
  readonly output: string;
}

/** @throws RangeError ERR_RULER_TASK, ERR_RULER_OPTION */
export function minimalRows(kind: string, options: MinimalOptions = {}): MinimalRow[] {
  if (!(MINIMAL_KINDS as readonly string[]).includes(kind)) {
    const near = nearest(kind, MINIMAL_KINDS);
    const hint = near.length > 0 ? `nearest: ${near.join(", ")}` : MINIMAL_KINDS.join(", ");
    throw misuse(RangeError, "ERR_RULER_TASK", "task", `a minimal task (${hint})`, kind);
  }
  const set = { ...DEFAULTS, ...options };
  for (const [name, value] of Object.entries(set))
    if (!Number.isInteger(value) || value < (name === "seed" ? 0 : 1))
      throw misuse(RangeError, "ERR_RULER_OPTION", name, "a whole number from 1", value);
  if (set.common > set.vocabulary)
    throw misuse(
      RangeError,
      "ERR_RULER_OPTION",
      "common",
      `at most the vocabulary, ${set.vocabulary}`,
      set.common,
    );
  const random = new PythonRandom(set.seed);
  const make = MAKERS[kind as MinimalKind];
  return Array.from({ length: set.samples }, (_, index) => rowOf(index, make(random, set), set.length));
}

const DEFAULTS = {
  samples: 20,
  length: 2048,
  keys: 1,
  valuesPerKey: 1,
  chains: 2,
  hops: 4,
  common: 5,
  commonRepeats: 8,
  rareRepeats: 2,
  vocabulary: 20,
  seed: 42,
};
type Settings = typeof DEFAULTS;

const MAKERS: Record<MinimalKind, (random: PythonRandom, set: Settings) => Parts> = {
  niah: makeNeedles,
  variable_tracking: makeChains,
  common_words: makeWords,
};

function rowOf(index: number, { instruction, context, question, output }: Parts, length: number): MinimalRow {
  return {
    index,
    input: `${instruction}\n\n${context}\n\nQuestion: ${question}`,
    outputs: [output],
    input_memory_instruction: `${instruction}\n\n${MEMORY_PAD}\n\nQuestion: ${question}`,
    input_memory_content: `${MEMORY_START} ${context} ${MEMORY_END}`,
    length,
    answer_prefix: "",
  };
}

function haystack(random: PythonRandom, set: Settings): string[] {
  return Array.from(
    { length: Math.max(4, Math.floor(set.length / 40)) },
    () => `${random.choice(FILLERS)} ${random.choiceString(UPPER, 1)}.`,
  );
}

function distinct(count: number, draw: () => string): string[] {
  const drawn = new Set<string>();
  while (drawn.size < count) drawn.add(draw());
  return [...drawn];
}

/** Puts lines at random places, their own order kept. */
function scatter(lines: string[], into: string[], random: PythonRandom): string {
  const places = lines.map(() => random.randbelow(into.length + 1)).sort((a, b) => a - b);
  const result = [...into];
  for (let i = lines.length - 1; i >= 0; i--) result.splice(places[i]!, 0, lines[i]!);
  return result.join(" ");
}

function makeNeedles(random: PythonRandom, set: Settings): Parts {
  const keys = distinct(set.keys, () => random.choiceString(LOWER, 6));
  const values = distinct(set.keys * set.valuesPerKey, () => String(random.randint(100_000, 999_999)));
  const byKey = keys.map((_, k) => values.slice(k * set.valuesPerKey, (k + 1) * set.valuesPerKey));
  const needles = keys.flatMap((key, k) =>
    byKey[k]!.map((value) => `One of the special magic numbers for ${key} is: ${value}.`),
  );
  random.shuffle(needles);
  return {
    instruction: "Some special magic numbers are hidden within the following text. Memorize them.",
    context: scatter(needles, haystack(random, set), random),
    question: `What are all the special magic numbers for ${keys.join(", ")} mentioned in the text?`,
    output: keys.map((key, k) => `${key}: ${byKey[k]!.join(", ")}`).join("; "),
  };
}

function makeChains(random: PythonRandom, set: Settings): Parts {
  const names = distinct(set.chains * (set.hops + 1), () => random.choiceString(UPPER, 5));
  const values = distinct(set.chains, () => String(random.randint(1000, 9999)));
  let lines: string[] = haystack(random, set);
  for (let c = 0; c < set.chains; c++) {
    const own = names.slice(c * (set.hops + 1), (c + 1) * (set.hops + 1));
    const told = own.map((name, i) =>
      i === 0
        ? `${name} starts with the value ${values[c]}.`
        : `${name} takes whatever value ${own[i - 1]} currently holds.`,
    );
    lines = [scatter(told, lines, random)].flatMap((text) => text.split(/(?<=\.) (?=\S)/));
  }
  return {
    instruction: "Track the values of the variables in the following text.",
    context: lines.join(" "),
    question: `Which variables hold the value ${values[0]} at the end? Name all of them.`,
    output: names.slice(0, set.hops + 1).join(", "),
  };
}

function makeWords(random: PythonRandom, set: Settings): Parts {
  const words = distinct(set.vocabulary, () => random.choiceString(LOWER, 6));
  const listed = words.flatMap((word, i) =>
    new Array<string>(i < set.common ? set.commonRepeats : set.rareRepeats).fill(word),
  );
  random.shuffle(listed);
  return {
    instruction: "Below is a numbered list of words. Some appear more often than others.",
    context: listed.map((word, i) => `${i + 1}. ${word}`).join(" "),
    question: `What are the ${set.common} most common words in the list?`,
    output: words.slice(0, set.common).join(", "),
  };
}
