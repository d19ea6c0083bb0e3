// SPDX-License-Identifier: Apache-2.0
// The word lists of wonderwords 3.0 (MIT) as RULER uses them: adjective-noun keys, and one list of all words.

import { readFileSync } from "node:fs";
import { stripEnd } from "../text/python-text.ts";
import { assetUrl } from "./assets.ts";

function list(name: string): string[] {
  return readFileSync(assetUrl(`wonderwords/${name}`), "utf8")
    .split("\n")
    .map(stripEnd)
    .filter((word) => word !== "");
}

// The lists hold nothing beyond the basic plane, so JavaScript's own string order is code-point order.
let plain: readonly string[] | undefined;

/** Nouns, adjectives and verbs, distinct, sorted by code point. */
export function allWords(): readonly string[] {
  plain ??= [
    ...new Set([...list("nounlist.txt"), ...list("adjectivelist.txt"), ...list("verblist.txt")]),
  ].sort();
  return plain;
}

/** One stretch of the sorted pairs: a single adjective's, or those of adjectives that interleave. */
interface Block {
  readonly from: number;
  readonly adjective: string;
  readonly merged: readonly string[] | undefined;
}

/**
 * `sorted(set(f"{adjective}-{noun}"))`, six million strings, without making them. Blocks of one adjective follow
 * each other, save where one adjective is another's beginning up to a hyphen (`old`, `old-fashioned`): those
 * interleave and are merged for real.
 */
export class PairedWords {
  readonly size: number;
  readonly #nouns: readonly string[];
  readonly #blocks: readonly Block[];

  constructor(adjectives: readonly string[], nouns: readonly string[]) {
    this.#nouns = [...new Set(nouns)].sort();
    const distinct = [...new Set(adjectives)].sort((a, b) => (`${a}-` < `${b}-` ? -1 : 1));
    const blocks: Block[] = [];
    let from = 0;
    for (let i = 0; i < distinct.length; ) {
      const adjective = distinct[i]!;
      let end = i + 1;
      while (end < distinct.length && distinct[end]!.startsWith(`${adjective}-`)) end++;
      const merged =
        end === i + 1
          ? undefined
          : [
              ...new Set(distinct.slice(i, end).flatMap((a) => this.#nouns.map((noun) => `${a}-${noun}`))),
            ].sort();
      blocks.push({ from, adjective, merged });
      from += merged ? merged.length : this.#nouns.length;
      i = end;
    }
    this.#blocks = blocks;
    this.size = from;
  }

  at(index: number): string {
    let low = 0;
    let high = this.#blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#blocks[middle]!.from <= index) low = middle;
      else high = middle - 1;
    }
    const { from, adjective, merged } = this.#blocks[low]!;
    return merged ? merged[index - from]! : `${adjective}-${this.#nouns[index - from]}`;
  }
}

let pairs: PairedWords | undefined;

export function pairedWords(): PairedWords {
  pairs ??= new PairedWords(list("adjectivelist.txt"), list("nounlist.txt"));
  return pairs;
}
