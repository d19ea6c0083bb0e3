// SPDX-License-Identifier: Apache-2.0
// GGUF metadata -> tokenizer.json and tokenizer_config.json, for the two kinds that decoders use:
// byte-level BPE ("gpt2", with the word splitting that `tokenizer.ggml.pre` names) and SentencePiece
// BPE ("llama", merges rebuilt from the scores of the pieces).

import { ModelError } from "../errors.ts";
import type { GgufValue } from "../formats/gguf.ts";

export interface GgufTokenizer {
  tokenizer: Record<string, unknown>;
  config: Record<string, unknown>;
  bosId: number | null;
  eosIds: number[];
  addBos: boolean;
  hasChatTemplate: boolean;
}

type Metadata = ReadonlyMap<string, GgufValue>;

// Token types of the file.
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

interface Vocabulary {
  file: string;
  tokens: readonly string[];
  types: readonly number[];
  metadata: Metadata;
}

/** Throws ERR_GGUF_TOKENIZER for other kinds, other word splittings, and lists that do not fit together. */
export function ggufTokenizer(file: string, metadata: Metadata): GgufTokenizer {
  const tokens = metadata.get("tokenizer.ggml.tokens");
  if (!isList(tokens, "string") || tokens.length === 0)
    throw bad(
      file,
      "tokenizer.ggml.tokens as a list of strings",
      tokens === undefined ? "nothing" : "something else",
    );
  const types = metadata.get("tokenizer.ggml.token_type") ?? tokens.map(() => 1);
  if (!isList(types, "number") || types.length !== tokens.length)
    throw bad(file, `one token type for each of ${tokens.length} tokens`, `${(types as unknown[]).length}`);
  const vocabulary: Vocabulary = { file, tokens, types, metadata };
  const kind = metadata.get("tokenizer.ggml.model");
  if (kind === "gpt2") return finish(vocabulary, byteLevel(vocabulary), bytePreDefaultsToBos(metadata));
  if (kind === "llama") return finish(vocabulary, sentencePiece(vocabulary), true);
  throw bad(file, "a tokenizer of kind gpt2 or llama", JSON.stringify(kind) ?? "none");
}

interface Pipeline {
  normalizer: unknown;
  pre_tokenizer: unknown;
  model: Record<string, unknown>;
  decoder: unknown;
}

function finish(vocabulary: Vocabulary, pipeline: Pipeline, bosByDefault: boolean): GgufTokenizer {
  const { file, tokens, types, metadata } = vocabulary;
  const id = (name: string): number | null => {
    const value = metadata.get(`tokenizer.ggml.${name}_token_id`);
    if (value === undefined) return null;
    if (typeof value === "number" && value >= 0 && value < tokens.length) return value;
    throw bad(file, `${name}_token_id below ${tokens.length}`, String(value));
  };
  const flag = (name: string, fallback: boolean) => {
    const value = metadata.get(`tokenizer.ggml.${name}`);
    return typeof value === "boolean" ? value : fallback;
  };
  const bosId = id("bos");
  const eosId = id("eos");
  const addBos = flag("add_bos_token", bosByDefault) && bosId !== null;
  const addEos = flag("add_eos_token", false) && eosId !== null;
  const added = types.flatMap((type, index) =>
    type === CONTROL || type === USER_DEFINED || type === UNKNOWN
      ? [addedToken(index, tokens[index]!, type !== USER_DEFINED)]
      : [],
  );
  const template = metadata.get("tokenizer.chat_template");
  const text = (tokenId: number | null) => (tokenId === null ? {} : tokens[tokenId]);
  const named = { bos_token: text(bosId), eos_token: text(eosId), unk_token: text(id("unknown")) };
  const pad = id("padding");
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: pipeline.normalizer,
      pre_tokenizer: pipeline.pre_tokenizer,
      post_processor: around(addBos ? tokens[bosId!]! : null, bosId, addEos ? tokens[eosId!]! : null, eosId),
      decoder: pipeline.decoder,
      model: pipeline.model,
    },
    // What stands around a text is in the post-processor alone: said twice, it could be done twice.
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      clean_up_tokenization_spaces: false,
      ...Object.fromEntries(Object.entries(named).filter(([, value]) => typeof value === "string")),
      ...(pad === null ? {} : { pad_token: tokens[pad] }),
      ...(typeof template === "string" ? { chat_template: template } : {}),
    },
    bosId,
    eosIds: [...new Set([eosId, id("eot"), id("eom")].filter((value) => value !== null))],
    addBos,
    hasChatTemplate: typeof template === "string",
  };
}

function addedToken(id: number, content: string, special: boolean): Record<string, unknown> {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special };
}

// Tokens that are put before and after a text.
function around(bos: string | null, bosId: number | null, eos: string | null, eosId: number | null): unknown {
  if (bos === null && eos === null) return null;
  const part = (type: 0 | 1, sequence: "A" | "B") => [
    ...(bos === null ? [] : [{ SpecialToken: { id: bos, type_id: type } }]),
    { Sequence: { id: sequence, type_id: type } },
    ...(eos === null ? [] : [{ SpecialToken: { id: eos, type_id: type } }]),
  ];
  const special: Record<string, unknown> = {};
  if (bos !== null) special[bos] = { id: bos, ids: [bosId], tokens: [bos] };
  if (eos !== null) special[eos] = { id: eos, ids: [eosId], tokens: [eos] };
  return {
    type: "TemplateProcessing",
    single: part(0, "A"),
    pair: [...part(0, "A"), ...part(1, "B")],
    special_tokens: special,
  };
}

// ---- byte-level BPE

const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const LLAMA3_WORDS =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN2_WORDS =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

interface WordSplitting {
  preTokenizer: unknown;
  normalizer?: unknown;
  /** A word that is a token is taken whole, whatever the merges say. */
  ignoreMerges?: boolean;
}

function split(pattern: string): unknown {
  return {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false },
      { ...BYTE_LEVEL, trim_offsets: false, use_regex: false },
    ],
  };
}

const GPT2: WordSplitting = { preTokenizer: BYTE_LEVEL };
// Digits stand alone before the byte-level rule sees the text; a rule that comes after cannot undo it.
const SINGLE_DIGITS: WordSplitting = {
  preTokenizer: {
    type: "Sequence",
    pretokenizers: [{ type: "Digits", individual_digits: true }, BYTE_LEVEL],
  },
};
const LLAMA3: WordSplitting = { preTokenizer: split(LLAMA3_WORDS), ignoreMerges: true };
const QWEN2: WordSplitting = { preTokenizer: split(QWEN2_WORDS), normalizer: { type: "NFC" } };

/** Word splittings by the names llama.cpp gives them. */
const SPLITTINGS: Readonly<Record<string, WordSplitting>> = {
  default: GPT2,
  "gpt-2": GPT2,
  mpt: GPT2,
  olmo: GPT2,
  jais: GPT2,
  smollm: SINGLE_DIGITS,
  starcoder: SINGLE_DIGITS,
  refact: SINGLE_DIGITS,
  "command-r": SINGLE_DIGITS,
  exaone: SINGLE_DIGITS,
  codeshell: SINGLE_DIGITS,
  "llama-bpe": LLAMA3,
  "llama-v3": LLAMA3,
  llama3: LLAMA3,
  "smaug-bpe": LLAMA3,
  qwen2: QWEN2,
  stablelm2: QWEN2,
  "deepseek-r1-qwen": QWEN2,
};

function bytePreDefaultsToBos(metadata: Metadata): boolean {
  return SPLITTINGS[String(metadata.get("tokenizer.ggml.pre"))] === LLAMA3;
}

function byteLevel({ file, tokens, metadata }: Vocabulary): Pipeline {
  const merges = metadata.get("tokenizer.ggml.merges");
  if (!isList(merges, "string"))
    throw bad(file, "tokenizer.ggml.merges as a list of strings", "something else");
  const pre = String(metadata.get("tokenizer.ggml.pre") ?? "default");
  const splitting = Object.hasOwn(SPLITTINGS, pre) ? SPLITTINGS[pre]! : undefined;
  if (!splitting)
    throw bad(file, `tokenizer.ggml.pre among ${Object.keys(SPLITTINGS).join(", ")}`, `"${pre}"`);
  return {
    normalizer: splitting.normalizer ?? null,
    pre_tokenizer: splitting.preTokenizer,
    decoder: BYTE_LEVEL,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: splitting.ignoreMerges ?? false,
      vocab: vocabularyOf(tokens),
      merges: merges.map((merge) => merge.split(" ")),
    },
  };
}

// ---- SentencePiece BPE

function sentencePiece({ file, tokens, types, metadata }: Vocabulary): Pipeline {
  const scores = metadata.get("tokenizer.ggml.scores");
  if (!isList(scores, "number") || scores.length !== tokens.length)
    throw bad(file, `tokenizer.ggml.scores, one for each of ${tokens.length} tokens`, "something else");
  const prefix = metadata.get("tokenizer.ggml.add_space_prefix") !== false;
  const unknown = types.indexOf(UNKNOWN);
  return {
    normalizer: {
      type: "Sequence",
      normalizers: [
        ...(prefix ? [{ type: "Prepend", prepend: "▁" }] : []),
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown >= 0 ? tokens[unknown] : null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: types.includes(BYTE),
      ignore_merges: false,
      vocab: vocabularyOf(tokens),
      merges: mergesOfScores(tokens, types, scores),
    },
  };
}

// SentencePiece joins the neighbours whose union has the best score. As a list of merges that is: every
// way to cut a piece into two pieces, the best piece first; among the cuts of equal score the order of
// Transformers' converter (long left parts first, then by ids).
function mergesOfScores(
  tokens: readonly string[],
  types: readonly number[],
  scores: readonly number[],
): [string, string][] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: { left: string; right: string; score: number; lengths: [number, number] }[] = [];
  tokens.forEach((token, id) => {
    if (types[id] === CONTROL || types[id] === BYTE || types[id] === UNKNOWN || types[id] === UNUSED) return;
    const letters = Array.from(token);
    const cuts: { left: string; right: string; lengths: [number, number] }[] = [];
    for (let at = 1; at < letters.length; at++) {
      const left = letters.slice(0, at).join("");
      const right = letters.slice(at).join("");
      if (ids.has(left) && ids.has(right)) cuts.push({ left, right, lengths: [at, letters.length - at] });
    }
    cuts.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!);
    for (const cut of cuts) merges.push({ ...cut, score: scores[id]! });
  });
  merges.sort((a, b) => b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]);
  return merges.map(({ left, right }) => [left, right]);
}

function vocabularyOf(tokens: readonly string[]): Record<string, number> {
  // Without a prototype: a token may be called "constructor" or "__proto__".
  const vocabulary: Record<string, number> = Object.create(null);
  tokens.forEach((token, id) => {
    vocabulary[token] = id;
  });
  return vocabulary;
}

type Primitive = { string: string; number: number };

function isList<K extends keyof Primitive>(value: unknown, kind: K): value is readonly Primitive[K][] {
  return Array.isArray(value) && value.every((item) => typeof item === kind);
}

function bad(file: string, expected: string, got: string): ModelError {
  return new ModelError("ERR_GGUF_TOKENIZER", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got },
    remedies: ["Convert from the model's Hugging Face folder, whose tokenizer.json is taken as it is."],
  });
}
