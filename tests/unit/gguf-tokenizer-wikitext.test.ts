// SPDX-License-Identifier: Apache-2.0
// Tokenizers through GGUF's metadata: what llama.cpp's converter writes of a tokenizer gives the ids of the
// original on WikiText-2, for byte-level BPE (GPT-2, Llama 3, Qwen 3) and SentencePiece (Llama 2, with the
// scores of its own tokenizer.model).

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { GgufValue } from "../../src/formats/gguf.ts";
import { ggufTokenizer } from "../../src/model/gguf-tokenizer.ts";
import { Tokenizer } from "../../src/model/tokenizer.ts";
import { shared } from "../native/golden.ts";

const TOKENIZERS = shared("models/tokenizers");
const WIKITEXT = shared("data/wikitext-2/test.txt");

interface HubFile {
  added_tokens: { id: number; content: string; special: boolean }[];
  model: { vocab: Record<string, number>; merges: (string | [string, string])[] };
}

const hubFile = (name: string) =>
  JSON.parse(readFileSync(join(TOKENIZERS, name, "tokenizer.json"), "utf8")) as HubFile;

/** Every tenth line that says something, and lines that WikiText lacks. */
function lines(): string[] {
  const all = readFileSync(WIKITEXT, "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "");
  return [
    ...all.filter((_, index) => index % 10 === 0),
    "  two  spaces and\ttabs \n\n new lines ",
    "naïve café — 東京 🙂 привет العربية",
    "x = [1234567, 0.5e-10]; // it's they'LL we're",
    "<|endoftext|><s></s><|im_end|>",
    "",
  ];
}

/** Fields of tokenizer.ggml.* for a byte-level tokenizer, as convert_hf_to_gguf.py writes them. */
function byteLevel(hub: HubFile, pre: string): Map<string, GgufValue> {
  const byId = new Map(Object.entries(hub.model.vocab).map(([token, id]) => [id, token]));
  const added = new Map(hub.added_tokens.map((token) => [token.id, token]));
  for (const { id, content } of added.values()) byId.set(id, content);
  const size = [...byId.keys()].reduce((a, b) => Math.max(a, b)) + 1;
  const tokens = Array.from({ length: size }, (_, id) => byId.get(id) ?? `[PAD${id}]`);
  const types = tokens.map((_, id) => {
    const token = added.get(id);
    if (token) return token.special ? 3 : 4;
    return byId.has(id) ? 1 : 5;
  });
  return new Map<string, GgufValue>([
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", pre],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", types],
    ["tokenizer.ggml.merges", hub.model.merges.map((m) => (typeof m === "string" ? m : m.join(" ")))],
    ["tokenizer.ggml.add_bos_token", false],
  ]);
}

/** Pieces of a SentencePiece model: field 1 of the protobuf, each { 1: piece, 2: score, 3: type }. */
function pieces(bytes: Uint8Array): { piece: string; score: number; type: number }[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: { piece: string; score: number; type: number }[] = [];
  let at = 0;
  const varint = () => {
    let [value, shift] = [0, 1];
    for (;;) {
      const byte = bytes[at++]!;
      value += (byte & 127) * shift;
      shift *= 128;
      if (byte < 128) return value;
    }
  };
  const skip = (wire: number) => {
    if (wire === 0) varint();
    else if (wire === 2) {
      const length = varint();
      at += length;
    } else at += wire === 5 ? 4 : 8;
  };
  while (at < bytes.length) {
    const tag = varint();
    if (tag !== 10) {
      skip(tag & 7);
      continue;
    }
    const end = varint() + at;
    const one = { piece: "", score: 0, type: 1 };
    while (at < end) {
      const inner = varint();
      if (inner === 10) {
        const length = varint();
        one.piece = new TextDecoder().decode(bytes.subarray(at, at + length));
        at += length;
      } else if (inner === 21) {
        one.score = view.getFloat32(at, true);
        at += 4;
      } else if (inner === 24) one.type = varint();
      else skip(inner & 7);
    }
    found.push(one);
  }
  return found;
}

function sentencePiece(): Map<string, GgufValue> {
  const all = pieces(readFileSync(join(TOKENIZERS, "llama2/tokenizer.model")));
  return new Map<string, GgufValue>([
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", all.map(({ piece }) => piece)],
    ["tokenizer.ggml.scores", all.map(({ score }) => score)],
    ["tokenizer.ggml.token_type", all.map(({ type }) => type)],
    ["tokenizer.ggml.bos_token_id", 1],
    ["tokenizer.ggml.eos_token_id", 2],
  ]);
}

describe.skipIf(!existsSync(TOKENIZERS) || !existsSync(WIKITEXT))(
  "ids through GGUF equal the original's",
  () => {
    test.each<[string, () => Map<string, GgufValue>]>([
      ["gpt2", () => byteLevel(hubFile("gpt2"), "gpt-2")],
      ["llama3", () => byteLevel(hubFile("llama3"), "llama-bpe")],
      ["qwen3", () => byteLevel(hubFile("qwen3"), "qwen2")],
      ["llama2", sentencePiece],
    ])("%s", { timeout: 120_000 }, (name, metadata) => {
      const original = new Tokenizer({ tokenizer: hubFile(name) as never, config: {} });
      const made = new Tokenizer(ggufTokenizer(`${name}.gguf`, metadata()));
      const options = { addSpecialTokens: false };
      let tokens = 0;
      const texts = lines();
      for (const text of texts) {
        const expected = Array.from(original.encode(text, options));
        expect({ text, ids: Array.from(made.encode(text, options)) }).toEqual({ text, ids: expected });
        tokens += expected.length;
      }
      console.log(`${name}: ${texts.length} lines, ${tokens} tokens equal`);
      expect(tokens).toBeGreaterThan(25_000);
    });
  },
);
