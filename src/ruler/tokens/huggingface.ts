// SPDX-License-Identifier: Apache-2.0
// Counting with a Hugging Face tokenizer.json. Whether the text may be cut at spaces is read from the file;
// where it cannot be shown, every text is encoded whole.

import { Tokenizer } from "@huggingface/tokenizers";
import { SplitCounter, type TokenCounter, WholeCounter } from "./counter.ts";

interface Component {
  type?: string;
  pretokenizers?: Component[];
  normalizers?: Component[];
  pattern?: { Regex?: string; String?: string };
  prepend?: string;
  content?: string;
  behavior?: string;
  add_prefix_space?: boolean;
  use_regex?: boolean;
  prepend_scheme?: string;
  split?: boolean;
  replacement?: string;
}

export interface TokenizerFile {
  normalizer?: Component | null;
  pre_tokenizer?: Component | null;
  model?: { type?: string; vocab?: Record<string, number> | unknown[] };
  added_tokens?: Array<{ content: string; lstrip?: boolean; rstrip?: boolean }>;
}

/** `len(tokenizer.tokenize(text))` of a tokenizer.json. */
export function huggingFaceCounter(name: string, file: TokenizerFile, config: object): TokenCounter {
  const tokenizer = new Tokenizer(file, config);
  return cutCounter(
    name,
    cutAtSpaces(file),
    (text) => tokenizer.encode(text, { add_special_tokens: false }).ids.length,
  );
}

export type SpaceCut = "as-is" | "drop-space" | "never";

/** A counter over an encoder whose texts may be cut as told. */
export function cutCounter(name: string, cut: SpaceCut, encode: (text: string) => number): TokenCounter {
  if (cut === "never") return new WholeCounter(name, encode);
  return new SplitCounter(name, {
    first: encode,
    // A tokenizer that puts a space mark before every text already supplies the piece's own.
    // (Of a lone space nothing would be left to put it before: that is the mark itself.)
    next: cut === "drop-space" ? (piece) => (piece === " " ? 1 : encode(piece.slice(1))) : encode,
  });
}

/** How pieces that start with a space may be encoded alone: as they are, without that space, or not at all. */
export function cutAtSpaces(file: TokenizerFile): SpaceCut {
  const spaced = (file.added_tokens ?? []).some((t) => t.lstrip || t.rstrip || /\s/.test(t.content));
  if (spaced) return "never";
  const steps = flatten(file.pre_tokenizer, "pretokenizers");
  const normalizers = flatten(file.normalizer, "normalizers");
  if (isByteLevel(steps)) return normalizers.every((n) => n.type === "NFC") ? "as-is" : "never";

  // Space marks: U+2581 stands for a space. No token may hold a mark after another character.
  const prepends = normalizers.some((n) => n.type === "Prepend" && n.prepend === "\u2581");
  const replaces = normalizers.some((n) => n.type === "Replace" && n.pattern?.String === " ");
  const known = normalizers.every((n) => n.type === "Prepend" || n.type === "Replace");
  if (!known || !marksLeadTokens(file.model?.vocab)) return "never";
  if (steps.length === 0 && replaces) return prepends ? "drop-space" : "as-is";
  return "never";
}

function flatten(component: Component | null | undefined, key: "pretokenizers" | "normalizers"): Component[] {
  if (!component) return [];
  return component.type === "Sequence" ? (component[key] ?? []).flatMap((c) => flatten(c, key)) : [component];
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const TAIL = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const CL100K_LIKE = ["\\p{N}{1,3}", "\\p{N}", "\\p{N}{1,2}", "\\p{N}+"].flatMap((digits) =>
  [CONTRACTIONS, "'(?i:[sdmt]|ll|ve|re)"].map(
    (head) => `${head}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}|${TAIL}`,
  ),
);
/** Split patterns in which a space can only head a match. */
const SPACE_LED = new Set([GPT2, ...CL100K_LIKE]);

function isByteLevel(steps: readonly Component[]): boolean {
  const last = steps.at(-1);
  if (last?.type !== "ByteLevel" || last.add_prefix_space) return false;
  // Digits stand alone whatever is around them.
  const splits = steps.slice(0, -1).filter((step) => step.type !== "Digits");
  if (splits.length === 0) return last.use_regex !== false;
  return (
    last.use_regex === false &&
    splits.length === 1 &&
    splits[0]!.type === "Split" &&
    splits[0]!.behavior === "Isolated" &&
    SPACE_LED.has(splits[0]!.pattern?.Regex ?? "")
  );
}

function marksLeadTokens(vocab: Record<string, number> | unknown[] | undefined): boolean {
  if (!vocab) return false;
  const tokens = Array.isArray(vocab)
    ? vocab.map((entry) => String((entry as unknown[])[0]))
    : Object.keys(vocab);
  return tokens.includes("\u2581") && !tokens.some((token) => /[^\u2581]\u2581/.test(token));
}
