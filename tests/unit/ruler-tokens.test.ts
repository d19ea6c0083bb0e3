// SPDX-License-Identifier: Apache-2.0
// A count from remembered pieces has to be the count of the whole text, whatever the text.
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Tokenizer } from "@huggingface/tokenizers";
import { getEncoding } from "js-tiktoken";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { builtInEssays } from "../../src/ruler/data/built-in-essays.ts";
import { PythonRandom } from "../../src/ruler/random/python.ts";
import { cutAtSpaces } from "../../src/ruler/tokens/huggingface.ts";
import { selectTokenizer } from "../../src/ruler/tokens/select.ts";

const shared = new URL("../../../shared/models/tokenizers/", import.meta.url);

function strangeTexts(): string[] {
  const random = new PythonRandom(5);
  const parts = [..."ab cD' \n\r\t.,!?-_12 39éß漢字\u00a0\u0301😀"];
  parts.push(
    "  ",
    "\n\n",
    " \n",
    "don't",
    "'S",
    "'ll ",
    " the",
    " magic",
    "uuid-4f",
    "<|",
    "//",
    "İ",
    "\u200b",
  );
  const made = Array.from({ length: 400 }, () =>
    Array.from({ length: random.randbelow(60) }, () => random.choice(parts)).join(""),
  );
  return [
    ...made,
    "a".repeat(300),
    "ab".repeat(400),
    "-".repeat(500),
    " ".repeat(300),
    "1234567890".repeat(30),
  ];
}

const texts = [
  ...strangeTexts(),
  ...builtInEssays()
    .slice(0, 12_000)
    .match(/[\s\S]{1,4000}/g)!,
];

describe("tiktoken encodings", () => {
  for (const name of ["cl100k_base", "o200k_base"] as const)
    it(`${name}: counts as js-tiktoken encodes`, async () => {
      const counter = await selectTokenizer(name);
      const encoding = getEncoding(name);
      for (const text of texts) {
        // Its pattern differs from tiktoken's own in white space at the very end alone.
        const whole = text.trimEnd();
        expect(counter.count(whole), JSON.stringify(whole)).toBe(encoding.encode(whole).length);
      }
    });

  it("refuses the literal special tokens that tiktoken refuses", async () => {
    const counter = await selectTokenizer("cl100k_base");
    expect(() => counter.count("once <|endoftext|> upon")).toThrow(
      expect.objectContaining({ code: "ERR_RULER_SPECIAL_TOKEN" }),
    );
    expect(counter.count("<|eot_id|> <BOS_TOKEN>")).toBeGreaterThan(0);
  });

  it("stays right when more pieces come than it remembers", async () => {
    const counter = await selectTokenizer("cl100k_base");
    const random = new PythonRandom(9);
    const words = Array.from({ length: 150_000 }, () => random.choiceString("abcdefghijklmnop", 7));
    const before = counter.count("alpha beta gamma");
    counter.count(words.join(" "));
    expect(counter.count("alpha beta gamma")).toBe(before);
  });
});

describe.skipIf(!existsSync(shared))("Hugging Face tokenizers", () => {
  const cuts = { gpt2: "as-is", llama3: "as-is", qwen3: "as-is", llama2: "drop-space" } as const;
  for (const [name, cut] of Object.entries(cuts))
    it(`${name}: counts as the tokenizer encodes the whole text`, async () => {
      const folder = fileURLToPath(new URL(`${name}/`, shared));
      const file = JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8"));
      expect(cutAtSpaces(file)).toBe(cut);
      const tokenizer = new Tokenizer(file, {});
      const counter = await selectTokenizer(folder);
      for (const text of texts.filter((t) => t !== ""))
        expect(counter.count(text), JSON.stringify(text)).toBe(
          tokenizer.encode(text, { add_special_tokens: false }).ids.length,
        );
    });
});

describe("a tokenizer that is not there", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "ruler-tokens-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("is named, with what could be given", async () => {
    const refused = (name: string) =>
      expect(selectTokenizer(name), name).rejects.toMatchObject({
        name: "DataError",
        code: "ERR_RULER_TOKENIZER",
      });
    await refused(join(folder, "nowhere"));
    await refused(folder);
    await writeFile(join(folder, "tokenizer.json"), "{");
    await refused(folder);
    await writeFile(join(folder, "tokenizer.json"), "{}");
    await refused(join(folder, "tokenizer.json"));
    await writeFile(join(folder, "tokenizer.model"), "x");
    await refused(join(folder, "tokenizer.model"));
    await writeFile(join(folder, "p50k_base.tiktoken"), "IQ== 0\n");
    await refused(join(folder, "p50k_base.tiktoken"));
    await writeFile(join(folder, "cl100k_base.tiktoken"), "IQ== 0\n");
    await refused(join(folder, "cl100k_base.tiktoken"));
    await writeFile(join(folder, "o200k_base.tiktoken"), "what is this\n");
    await refused(join(folder, "o200k_base.tiktoken"));
  });
});
