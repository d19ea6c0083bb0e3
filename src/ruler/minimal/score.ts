// SPDX-License-Identifier: Apache-2.0
// Scores of the minimal tasks, on sets: every expected item counts, in any order, and so does every item that was
// named wrongly. (The original looked for the first number of the reference, or for the whole text of it.)

export interface SetMatch {
  /** Items in both over items in either; 1 only where the sets are equal. */
  readonly overlap: number;
  /** Expected items that were named. */
  readonly recall: number;
  /** Named items that were expected; 1 where none was named and none was expected. */
  readonly precision: number;
  readonly exact: boolean;
}

/**
 * @param task a minimal task's name, with or without `minimal_`
 * @param reference its output: `key: v1, v2; key2: v3`, or items joined with commas
 * @param context the prompt; names and words are looked for among those it holds
 */
export function setMatch(task: string, reference: string, prediction: string, context: string): SetMatch {
  const kind = task.replace(/^minimal_/, "");
  const find = FINDERS[kind] ?? wordsOf;
  const expected = kind === "niah" ? numbersOf(reference) : new Set(splitItems(reference));
  const named = find(prediction, context);
  const both = [...expected].filter((item) => named.has(item)).length;
  const either = expected.size + named.size - both;
  return {
    overlap: either === 0 ? 1 : both / either,
    recall: expected.size === 0 ? 1 : both / expected.size,
    precision: named.size === 0 ? (expected.size === 0 ? 1 : 0) : both / named.size,
    exact: both === expected.size && both === named.size,
  };
}

const FINDERS: Record<string, (text: string, context: string) => Set<string>> = {
  niah: numbersOf,
  variable_tracking: (text, context) => {
    const names = new Set(Array.from(context.matchAll(/\b[A-Z]{5}\b/g), (m) => m[0].toLowerCase()));
    return mentioned(text, names);
  },
  common_words: wordsOf,
};

/** Runs of six digits, thousands marks taken out. */
function numbersOf(text: string): Set<string> {
  return new Set(text.replace(/(\d{3})[,\u202f](?=\d{3}\b)/g, "$1").match(/(?<!\d)\d{6}(?!\d)/g) ?? []);
}

/** Words of the prompt's numbered list that a text names. */
function wordsOf(text: string, context: string): Set<string> {
  return mentioned(
    text,
    new Set(Array.from(context.matchAll(/\d+\. ([\p{L}-]+)/gu), (m) => m[1]!.toLowerCase())),
  );
}

function mentioned(text: string, known: ReadonlySet<string>): Set<string> {
  const words = text.toLowerCase().match(/[\p{L}-]+/gu) ?? [];
  return new Set(words.filter((word) => known.has(word)));
}

function splitItems(reference: string): string[] {
  return reference
    .split(/[,;]/)
    .map((item) => item.trim().toLowerCase())
    .filter(Boolean);
}
