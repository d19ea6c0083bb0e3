// SPDX-License-Identifier: Apache-2.0
// Texts to token ids, cut to what the encoder takes, special tokens kept.

import { readFile } from "node:fs/promises";
import { Tokenizer } from "@huggingface/tokenizers";
import { ModelError } from "../errors.ts";

export interface TokenizerFiles {
  tokenizer: string;
  tokenizerConfig: string | null;
  maxTokens: number;
  /** Put before every text. */
  prefix: string;
}

/** A long text is first cut to so many characters a token; tokens are longer than that on average nowhere. */
const CHARACTERS_PER_TOKEN = 16;

/** One tokenizer with its limit; synchronous, one per thread. */
export class RowTokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #files: TokenizerFiles;
  readonly #tail: number[];

  private constructor(tokenizer: Tokenizer, files: TokenizerFiles) {
    this.#tokenizer = tokenizer;
    this.#files = files;
    const bare: number[] = tokenizer.encode("a", { add_special_tokens: false }).ids;
    const framed: number[] = tokenizer.encode("a").ids;
    const at = framed.findIndex((_, i) => bare.every((id, j) => framed[i + j] === id));
    this.#tail = at === -1 ? [] : framed.slice(at + bare.length);
  }

  static async open(files: TokenizerFiles): Promise<RowTokenizer> {
    try {
      const tokenizer: unknown = JSON.parse(await readFile(files.tokenizer, "utf8"));
      const config: unknown =
        files.tokenizerConfig === null ? {} : JSON.parse(await readFile(files.tokenizerConfig, "utf8"));
      return new RowTokenizer(new Tokenizer(tokenizer as object, config as object), files);
    } catch (error) {
      throw new ModelError(
        "ERR_TOKENIZER_UNREADABLE",
        `${files.tokenizer} cannot be loaded: ${(error as Error).message}`,
        {
          details: { file: files.tokenizer },
          remedies: ["fetch the model again"],
          cause: error,
        },
      );
    }
  }

  /** Ids of one text, at most maxTokens, framed by the model's special tokens. */
  encode(text: string): number[] {
    const { maxTokens, prefix } = this.#files;
    const whole = prefix + text;
    let budget = maxTokens * CHARACTERS_PER_TOKEN;
    for (;;) {
      const cut = whole.length > budget;
      const ids = this.#tokenizer.encode(cut ? whole.slice(0, cutPoint(whole, budget)) : whole).ids;
      // The word at the cut may have split otherwise; some tokens to spare make that irrelevant.
      if (cut && ids.length < maxTokens + 64) {
        budget *= 4;
        continue;
      }
      if (ids.length <= maxTokens) return ids;
      const kept = ids.slice(0, Math.max(0, maxTokens - this.#tail.length));
      return kept.concat(this.#tail).slice(0, maxTokens);
    }
  }

  /** Ids of many texts, one after another, and where each begins ([texts + 1]). */
  encodeAll(texts: readonly string[]): { ids: Int32Array; offsets: Int32Array } {
    const rows = texts.map((text) => this.encode(text));
    const offsets = new Int32Array(rows.length + 1);
    rows.forEach((row, i) => {
      offsets[i + 1] = (offsets[i] as number) + row.length;
    });
    const ids = new Int32Array(offsets[rows.length] as number);
    rows.forEach((row, i) => {
      ids.set(row, offsets[i]);
    });
    return { ids, offsets };
  }
}

/** A place near `budget` that is not inside a word or a surrogate pair, where there is one. */
function cutPoint(text: string, budget: number): number {
  const space = text.lastIndexOf(" ", budget);
  if (space > budget / 2) return space;
  const unit = text.charCodeAt(budget - 1);
  return unit >= 0xd800 && unit < 0xdc00 ? budget - 1 : budget;
}
