// SPDX-License-Identifier: Apache-2.0
// cwe: a numbered list in which ten words come more often than the rest. Source: NVIDIA/RULER's
// common_words_extraction.

import { PythonRandom, seededPermutation } from "../random/python.ts";
import { formatTemplate } from "../text/python-text.ts";
import { makeRow, onOneLine } from "./rows.ts";
import type { RulerRow, TaskSetting } from "./setting.ts";
import { type Draft, fitDraft, searchSize } from "./sizing.ts";
import type { CommonWordsSettings } from "./table.ts";
import { PROMPTS } from "./templates.ts";

const STEP = 10;
const FIRST_PROBE = 4096;

export function* commonWordRows(settings: CommonWordsSettings, setting: TaskSetting): Generator<RulerRow> {
  const random = new PythonRandom(setting.seed);
  const plain = setting.data.words();
  const words = Array.from(seededPermutation(setting.seed, plain.length), (i) => plain[i]!);
  const list = (size: number, commonRepeats: number, uncommonRepeats: number) => {
    const drawn = random.sample(size <= words.length ? words : setting.data.manyWords(size), size);
    const common = drawn.slice(0, settings.common);
    const uncommon = drawn.slice(settings.common);
    const repeated: string[] = [];
    for (let i = 0; i < commonRepeats; i++) repeated.push(...common);
    for (let i = 0; i < uncommonRepeats; i++) for (const word of uncommon) repeated.push(word);
    const order = seededPermutation(setting.seed, repeated.length);
    let context = "";
    for (let i = 0; i < order.length; i++) context += `${i === 0 ? "" : " "}${i + 1}. ${repeated[order[i]!]}`;
    return { context, common };
  };

  const short = setting.length < 4096;
  const fill = (context: string) =>
    formatTemplate(setting.template, { num_cw: String(settings.common), context, query: "" });
  const draft = (size: number): Draft => {
    const examples = Array.from({ length: settings.examples }, () =>
      short ? list(20, 3, 1) : list(40, 10, 3),
    );
    const main = short ? list(size, 6, 1) : list(size, settings.commonRepeats, settings.uncommonRepeats);
    const shown = examples.map(
      ({ context, common }) => `${fill(context)} ${common.map((word, i) => `${i + 1}. ${word}`).join(" ")}`,
    );
    return { text: `${shown.join("\n")}\n${fill(main.context)}`, outputs: main.common };
  };

  const limit = setting.length - setting.templateTokens;
  const count = (text: string) => setting.counter.count(text);
  const perWord = count(draft(FIRST_PROBE).text) / FIRST_PROBE;
  const size = searchSize(
    {
      lower: STEP,
      upper: Math.max(Math.floor(limit / perWord) * 2, STEP * 2),
      limit,
      measure: (n) => count(draft(n).text) + setting.tokensToGenerate,
    },
    setting.log,
  );
  for (let i = 0; i < setting.samples; i++) {
    const { draft: made, length } = fitDraft(size ?? STEP, STEP, limit, setting.patience, (n) => {
      const drawn = draft(n);
      return { draft: drawn, length: count(drawn.text) + setting.tokensToGenerate };
    });
    const text = setting.removeNewlineTab ? onOneLine(made.text) : made.text;
    yield makeRow(i, text, made.outputs, length, PROMPTS.common_words.answerPrefix, setting);
  }
}
