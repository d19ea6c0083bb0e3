// SPDX-License-Identifier: Apache-2.0
// The two OpenAI encodings RULER's published data was counted with. Ranks come from the js-tiktoken package
// (MIT) or a `.tiktoken` file; the counting is ours.

import { DataError } from "../../errors.ts";
import { PairCounter, type Ranks } from "./byte-pairs.ts";
import { SplitCounter, type TokenCounter } from "./counter.ts";

export type TiktokenName = "cl100k_base" | "o200k_base";

export const TIKTOKEN_NAMES: readonly TiktokenName[] = ["cl100k_base", "o200k_base"];

// Unicode White_Space, which is what `\s` is to tiktoken's regex engine; JavaScript's adds U+FEFF and lacks U+0085.
const W = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const CONTRACTION = "'(?:[sSdDmMtT\u017f]|[lL][lL]|[vV][eE]|[rR][eE])";
const UPPER = "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}";
const LOWER = "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}";

interface Encoding {
  readonly pattern: RegExp;
  readonly special: readonly string[];
  readonly size: number;
}

const ENCODINGS: Record<TiktokenName, Encoding> = {
  cl100k_base: {
    pattern: new RegExp(
      [
        CONTRACTION,
        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+",
        "\\p{N}{1,3}",
        ` ?[^${W}\\p{L}\\p{N}]+[\\r\\n]*`,
        `[${W}]+$`,
        `[${W}]*[\\r\\n]`,
        `[${W}]+(?![^${W}])`,
        `[${W}]`,
      ].join("|"),
      "gu",
    ),
    special: ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|endofprompt|>"],
    size: 100_256,
  },
  o200k_base: {
    pattern: new RegExp(
      [
        `[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]*[${LOWER}]+(?:${CONTRACTION})?`,
        `[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]+[${LOWER}]*(?:${CONTRACTION})?`,
        "\\p{N}{1,3}",
        ` ?[^${W}\\p{L}\\p{N}]+[\\r\\n/]*`,
        `[${W}]*[\\r\\n]+`,
        `[${W}]+(?![^${W}])`,
        `[${W}]+`,
      ].join("|"),
      "gu",
    ),
    special: ["<|endoftext|>", "<|endofprompt|>"],
    size: 199_998,
  },
};

/** A counter over an encoding's ranks. Text with a literal special token is refused, as tiktoken does. */
export function tiktokenCounter(name: TiktokenName, ranks: Ranks): TokenCounter {
  const { pattern, special, size } = ENCODINGS[name];
  if (ranks.size !== size)
    throw new DataError("ERR_RULER_TOKENIZER", `${name}: expected ${size} ranks, got ${ranks.size}`, {
      details: { name, expected: size, got: ranks.size },
      remedies: ["reinstall the js-tiktoken package", "give a whole .tiktoken file"],
    });
  const pairs = new PairCounter(ranks);
  const count = (piece: string) => {
    if (piece.includes("<|")) refuseSpecial(name, piece, special);
    let total = 0;
    pattern.lastIndex = 0;
    for (let m = pattern.exec(piece); m !== null; m = pattern.exec(piece)) total += pairs.count(m[0]);
    return total;
  };
  return new SplitCounter(name, { first: count, next: count });
}

function refuseSpecial(name: string, piece: string, special: readonly string[]): void {
  const found = special.find((token) => piece.includes(token));
  if (found === undefined) return;
  throw new DataError(
    "ERR_RULER_SPECIAL_TOKEN",
    `${name}: the text holds the literal special token ${found}, which tiktoken refuses to encode`,
    { details: { tokenizer: name, token: found }, remedies: ["take it out of the haystack or the template"] },
  );
}

/** Ranks from the js-tiktoken package: lines of an offset and base64 tokens of consecutive ranks. */
export async function packagedRanks(name: TiktokenName): Promise<Ranks> {
  const module =
    name === "cl100k_base"
      ? await import("js-tiktoken/ranks/cl100k_base")
      : await import("js-tiktoken/ranks/o200k_base");
  const ranks = new Map<string, number>();
  for (const line of module.default.bpe_ranks.split("\n")) {
    const [, offset, ...tokens] = line.split(" ");
    let rank = Number(offset);
    for (const token of tokens) ranks.set(decodeBase64(token), rank++);
  }
  return ranks;
}

/** Ranks from a `.tiktoken` file: a base64 token and its rank a line. */
export function parseRanks(text: string, where: string): Ranks {
  const ranks = new Map<string, number>();
  let number = 0;
  for (const line of text.split("\n")) {
    number++;
    if (line === "") continue;
    const match = /^([A-Za-z0-9+/=]+) (\d+)\r?$/.exec(line);
    if (!match)
      throw new DataError("ERR_RULER_TOKENIZER", `${where}:${number}: expected a base64 token and a rank`, {
        details: { file: where, line: number },
      });
    ranks.set(decodeBase64(match[1]!), Number(match[2]));
  }
  return ranks;
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const VALUES = Uint8Array.from({ length: 128 }, (_, unit) => {
  return Math.max(0, DIGITS.indexOf(String.fromCharCode(unit)));
});

/** Base64 to a Latin-1 string of its bytes; Buffer's way takes several times as long for strings this short. */
function decodeBase64(text: string): string {
  let bytes = "";
  for (let i = 0; i < text.length; i += 4) {
    const bits =
      (VALUES[text.charCodeAt(i)]! << 18) |
      (VALUES[text.charCodeAt(i + 1)]! << 12) |
      (VALUES[text.charCodeAt(i + 2)]! << 6) |
      VALUES[text.charCodeAt(i + 3)]!;
    bytes += String.fromCharCode(bits >> 16);
    if (text[i + 2] !== "=") bytes += String.fromCharCode((bits >> 8) & 255);
    if (text[i + 3] !== "=") bytes += String.fromCharCode(bits & 255);
  }
  return bytes;
}
