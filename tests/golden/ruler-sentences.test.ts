// SPDX-License-Identifier: Apache-2.0
// Sentence ends decide where needles go: one sentence cut elsewhere and no essay task has upstream's bytes.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { sentences } from "../../src/ruler/text/punkt.ts";
import { collapseSpace, strip } from "../../src/ruler/text/python-text.ts";
import { dataRoot, goldenJson, hasGolden } from "./ruler-golden.ts";

describe.skipIf(!hasGolden)("sentences as NLTK finds them", () => {
  const cases = hasGolden
    ? (goldenJson("sent_tokenize_cases.json") as Array<{ text: string; sents: string[] }>)
    : [];
  for (const { text, sents } of cases) {
    it(JSON.stringify(text.slice(0, 50)), () => expect(sentences(text)).toEqual(sents));
  }

  it("cuts the essays into the recorded sentences", () => {
    const recorded = goldenJson("sent_tokenize_essay_hashes.json") as {
      rows: Array<{ num_haystack: number; sentences: number; sha256_of_sents_joined_by_newline: string }>;
    };
    const file = new URL("PaulGrahamEssays.gkamradt49.json", dataRoot);
    const words = collapseSpace((JSON.parse(readFileSync(file, "utf8")) as { text: string }).text).split(" ");
    const checked = recorded.rows.filter((row) => row.num_haystack <= words.length);
    expect(checked.length).toBeGreaterThanOrEqual(5);
    for (const row of checked) {
      const found = sentences(strip(words.slice(0, row.num_haystack).join(" ")));
      expect(found.length).toBe(row.sentences);
      expect(createHash("sha256").update(found.join("\n")).digest("hex")).toBe(
        row.sha256_of_sents_joined_by_newline,
      );
    }
  });
});
