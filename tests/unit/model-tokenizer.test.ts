// SPDX-License-Identifier: Apache-2.0
// Text to ids as the references have them, and ids to text without losing a byte, whole or in pieces.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { Detokenizer } from "../../src/model/detokenizer.ts";
import { loadTokenizer } from "../../src/model/load-tokenizer.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";

const shared = (path: string) => fileURLToPath(new URL(`../../../shared/${path}`, import.meta.url));
const STORIES = shared("models/llama-stories260K/hf");
const here = existsSync(STORIES);
// Large vocabularies take a second to build; each is built once.
const built = new Map<string, Promise<Tokenizer>>();
const hub = (name: string) => {
  const tokenizer = built.get(name) ?? loadTokenizer(shared(`models/tokenizers/${name}`));
  built.set(name, tokenizer);
  return tokenizer;
};
const HARD = "naïve café — 日本語, emoji 👩‍👩‍👧 and\ttabs\r\n  two  spaces, <0x41> and \u0000 nul";

describe.skipIf(!here)("against the references (../shared is absent)", () => {
  test("ids and texts of the stories260k golden run", async () => {
    const tokenizer = await loadTokenizer(STORIES);
    const golden = JSON.parse(readFileSync(shared("golden/stories260k/stories260k.json"), "utf8")) as {
      prompts: { text: string; ids: number[]; outputs: Record<string, { ids: number[]; text: string }> }[];
    };
    for (const { text, ids, outputs } of golden.prompts) {
      expect(Array.from(tokenizer.encode(text))).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(text);
      for (const output of Object.values(outputs)) expect(tokenizer.decode(output.ids)).toBe(output.text);
    }
  });

  test.each(["gpt2", "llama2", "llama3", "qwen3"])("%s: decode(encode(text)) is the text", async (name) => {
    const tokenizer = await hub(name);
    for (const text of [HARD, "a", " leading space", "trailing ", "\n\n", "𝔘𝔫𝔦"]) {
      const ids = tokenizer.encode(text, { addSpecialTokens: false });
      expect(tokenizer.decode(ids)).toBe(text);
    }
  });

  test.each(["gpt2", "llama2", "qwen3"])(
    "%s: streamed one token at a time equals the whole",
    async (name) => {
      const tokenizer = await loadTokenizer(shared(`models/tokenizers/${name}`));
      const ids = tokenizer.encode(HARD, { addSpecialTokens: false });
      const stream = new Detokenizer(tokenizer);
      const pieces = [...ids].map((id) => stream.push([id]));
      pieces.push(stream.end());
      expect(pieces.join("")).toBe(tokenizer.decode(ids, { continuation: true }));
      // No piece may hold half a character.
      for (const piece of pieces) expect(piece).not.toContain("\uFFFD");
    },
  );

  test("a character that never ends becomes U+FFFD at the end, not before", async () => {
    const tokenizer = await hub("gpt2");
    const cut = tokenizer.encode("日", { addSpecialTokens: false }).slice(0, 1);
    const stream = new Detokenizer(tokenizer);
    expect(stream.push(cut)).toBe("");
    expect(stream.end()).toContain("\uFFFD");
  });
});

describe.skipIf(!here)("stop strings (../shared is absent)", () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await hub("gpt2");
  });
  const streamed = (text: string, stops: string[]) => {
    const stream = new Detokenizer(tokenizer, stops);
    const pieces = [...tokenizer.encode(text, { addSpecialTokens: false })].map((id) => stream.push([id]));
    return [...pieces, stream.end()];
  };

  test("nothing of a stop string is ever shown, however it is cut into tokens", () => {
    for (const stop of ["\n\n", "END", "world.", "lo wor"]) {
      const text = `hello world. and${stop} more`;
      const cut = text.slice(0, text.indexOf(stop));
      expect(streamed(text, [stop]).join("")).toBe(cut);
    }
  });

  test("what only looked like a stop string is shown in the end", () => {
    expect(streamed("one EN two E", ["END"]).join("")).toBe("one EN two E");
  });

  test("the stop string that begins first wins", () => {
    expect(streamed("abc def ghi", ["ghi", "def"]).join("")).toBe("abc ");
  });
});

test("a folder without tokenizer.json is named", async () => {
  await expect(loadTokenizer(shared("nowhere"))).rejects.toMatchObject({ code: "ERR_TOKENIZER" });
});
