// SPDX-License-Identifier: Apache-2.0
// The tokenizer made from GGUF metadata against the ids the reference gave.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { GgufValue } from "../../src/formats/gguf.ts";
import { readGgufHeader } from "../../src/formats/gguf.ts";
import { cacheFolder } from "../../src/model/cache-folder.ts";
import { ggufTokenizer } from "../../src/model/gguf-tokenizer.ts";
import { Tokenizer } from "../../src/model/tokenizer.ts";

const GOLDEN = fileURLToPath(new URL("../../../shared/golden/smollm2/smollm2.json", import.meta.url));
const NAME = "SmolLM2-135M-Instruct.Q4_1.gguf";
const file = `${cacheFolder()}/sources/${NAME}`;

describe.skipIf(!existsSync(GOLDEN) || !existsSync(file))(
  "the default model's tokenizer (skipped where it was not pulled)",
  () => {
    test("gives the reference's ids for all prompts", () => {
      const { prompts } = JSON.parse(readFileSync(GOLDEN, "utf8")) as {
        prompts: { text: string; ids: number[] }[];
      };
      const made = ggufTokenizer(file, readGgufHeader(file).metadata);
      const tokenizer = new Tokenizer(made);
      for (const { text, ids } of prompts) {
        expect(Array.from(tokenizer.encode(text))).toEqual(ids);
        expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(text);
      }
      expect(made.eosIds).toEqual([2]);
      expect(made.hasChatTemplate).toBe(true);
    });
  },
);

describe("word splitting", () => {
  const bytes = Array.from({ length: 256 }, (_, i) => i);
  // A vocabulary of single bytes in the byte-level alphabet, and a few merges.
  const printable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  const alphabet = bytes.map((byte) => String.fromCodePoint(printable(byte) ? byte : next++));
  const tokens = [...alphabet, "12", "Ġ1", "ab", "<|end|>"];
  const metadata = (pre: string, more: [string, GgufValue][] = []) =>
    new Map<string, GgufValue>([
      ["tokenizer.ggml.model", "gpt2"],
      ["tokenizer.ggml.pre", pre],
      ["tokenizer.ggml.tokens", tokens],
      ["tokenizer.ggml.token_type", tokens.map((token) => (token === "<|end|>" ? 3 : 1))],
      ["tokenizer.ggml.merges", ["1 2", "Ġ 1", "a b"]],
      ["tokenizer.ggml.eos_token_id", tokens.length - 1],
      ...more,
    ]);
  const encode = (pre: string, text: string) =>
    Array.from(new Tokenizer(ggufTokenizer("x.gguf", metadata(pre))).encode(text), (id) => tokens[id]);

  test("smollm: digits stand alone before the byte-level rule", () => {
    expect(encode("smollm", "ab 12<|end|>")).toEqual(["ab", "Ġ", "1", "2", "<|end|>"]);
    expect(encode("gpt-2", "ab 12<|end|>")).toEqual(["ab", "Ġ", "12", "<|end|>"]);
  });

  test("an unknown splitting is refused, not guessed", () => {
    expect(() => ggufTokenizer("x.gguf", metadata("never-heard-of"))).toThrowError(
      expect.objectContaining({ code: "ERR_GGUF_TOKENIZER" }),
    );
  });

  test("ids outside the vocabulary, lists of other lengths and other kinds are refused", () => {
    const bad: [string, GgufValue][][] = [
      [["tokenizer.ggml.eos_token_id", tokens.length]],
      [["tokenizer.ggml.token_type", [1, 2, 3]]],
      [["tokenizer.ggml.tokens", []]],
      [["tokenizer.ggml.model", "bert"]],
      [["tokenizer.ggml.model", "llama"]],
    ];
    for (const more of bad)
      expect(() => ggufTokenizer("x.gguf", metadata("smollm", more))).toThrowError(
        expect.objectContaining({ code: "ERR_GGUF_TOKENIZER" }),
      );
  });
});

describe("SentencePiece from scores", () => {
  const HUB = fileURLToPath(
    new URL("../../../shared/models/tokenizers/llama2/tokenizer.json", import.meta.url),
  );

  test("joins the best-scored neighbours first and falls back to bytes", () => {
    const tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "ab", "bc", "▁a", "▁ab"];
    const types = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1];
    const scores = [0, 0, 0, 0, 0, -10, -11, -12, -13, -3, -1, -2, -4];
    const made = ggufTokenizer(
      "x.gguf",
      new Map<string, GgufValue>([
        ["tokenizer.ggml.model", "llama"],
        ["tokenizer.ggml.tokens", tokens],
        ["tokenizer.ggml.token_type", types],
        ["tokenizer.ggml.scores", scores],
        ["tokenizer.ggml.bos_token_id", 1],
        ["tokenizer.ggml.eos_token_id", 2],
      ]),
    );
    const tokenizer = new Tokenizer(made);
    // "bc" (-1) beats "▁a" (-2) beats "ab" (-3).
    expect(Array.from(tokenizer.encode("abc"), (id) => tokens[id])).toEqual(["<s>", "▁a", "bc"]);
    expect(Array.from(tokenizer.encode("ab"), (id) => tokens[id])).toEqual(["<s>", "▁ab"]);
    expect(Array.from(tokenizer.encode("aé"), (id) => tokens[id])).toEqual(["<s>", "▁a", "<0xC3>", "<0xA9>"]);
    expect(tokenizer.decode(tokenizer.encode("abc"))).toBe("abc");
  });

  test.skipIf(!existsSync(HUB))("the merges of Llama 2 are rebuilt from a score per rank", () => {
    const hub = JSON.parse(readFileSync(HUB, "utf8")) as {
      model: { vocab: Record<string, number>; merges: (string | [string, string])[] };
    };
    const tokens = Object.entries(hub.model.vocab)
      .sort((a, b) => a[1] - b[1])
      .map(([token]) => token);
    const types = tokens.map((token, id) => (id === 0 ? 2 : id < 3 ? 3 : /^<0x..>$/.test(token) ? 6 : 1));
    // A piece's score says when it is joined: minus the rank of the first merge that makes it.
    const ranks = new Map<string, number>();
    hub.model.merges.forEach((merge, rank) => {
      const piece = typeof merge === "string" ? merge.replace(" ", "") : merge.join("");
      if (!ranks.has(piece)) ranks.set(piece, -rank);
    });
    const made = ggufTokenizer(
      "llama2",
      new Map<string, GgufValue>([
        ["tokenizer.ggml.model", "llama"],
        ["tokenizer.ggml.tokens", tokens],
        ["tokenizer.ggml.token_type", types],
        ["tokenizer.ggml.scores", tokens.map((token) => ranks.get(token) ?? -1e6)],
        ["tokenizer.ggml.bos_token_id", 1],
        ["tokenizer.ggml.eos_token_id", 2],
      ]),
    );
    const tokenizer = new Tokenizer(made);
    const reference = new Tokenizer({ tokenizer: hub as never, config: {} });
    for (const text of [
      "Once upon a time, in 1998...",
      "  two  spaces",
      "naïve café — 東京 🙂",
      "x\n\ny\tz",
      "<s>a</s>",
    ])
      expect(Array.from(tokenizer.encode(text))).toEqual(Array.from(reference.encode(text)));
  });
});
