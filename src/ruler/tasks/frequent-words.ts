// SPDX-License-Identifier: Apache-2.0
// fwe: made-up words whose counts fall off as a zeta distribution; which three come most often? Source:
// NVIDIA/RULER's freq_words_extraction.

import { PythonRandom, seededPermutation } from "../random/python.ts";
import { compareCodePoints, formatTemplate } from "../text/python-text.ts";
import { makeRow, onOneLine } from "./rows.ts";
import type { RulerRow, TaskSetting } from "./setting.ts";
import { DoesNotFit } from "./sizing.ts";
import type { FrequentWordsSettings } from "./table.ts";
import { PROMPTS } from "./templates.ts";
import { riemannZeta } from "./zeta.ts";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

interface Sized {
  readonly text: string;
  readonly outputs: readonly string[];
  readonly words: number;
  readonly tokens: number;
}

export function* frequentWordRows(
  settings: FrequentWordsSettings,
  setting: TaskSetting,
): Generator<RulerRow> {
  const random = new PythonRandom(setting.seed);
  const limit = setting.length - setting.templateTokens - setting.tokensToGenerate;
  const vocabulary = settings.vocabulary === -1 ? Math.floor(limit / 50) : settings.vocabulary;
  const step = Math.floor(limit / 32);
  // Upstream divides by these, indexes with them or steps by them.
  if (vocabulary < 2 || step < 1) throw new DoesNotFit(setting.length + 1);
  const scale = riemannZeta(settings.alpha);

  const generate = (wanted: number): Sized => {
    const coded = drawVocabulary(random, vocabulary, settings.wordLength, setting.seed);
    const write = (words: number): Sized => {
      const counts = zetaCounts(words, coded.length, settings.alpha, scale);
      const all = coded.flatMap((word, i) => new Array<string>(counts[i]!).fill(word));
      const order = seededPermutation(setting.seed, all.length);
      const context = Array.from(order, (i) => all[i]!).join(" ");
      const text = formatTemplate(setting.template, { context, query: "" });
      return { text, outputs: coded.slice(1, 4), words, tokens: setting.counter.count(text) };
    };
    if (wanted > 0) {
      let sized = write(wanted);
      while (sized.tokens > limit) {
        if (sized.words <= 0) throw new DoesNotFit(sized.tokens + setting.tokensToGenerate);
        sized = write(sized.words - step);
      }
      return sized;
    }
    let words = Math.floor(limit / settings.wordLength);
    while (write(words).tokens < limit) words += step;
    return write(words - step);
  };

  const words = generate(-1).words;
  for (let i = 0; i < setting.samples; i++) {
    const sized = generate(words);
    const text = setting.removeNewlineTab ? onOneLine(sized.text) : sized.text;
    yield makeRow(
      i,
      text,
      sized.outputs,
      sized.tokens + setting.tokensToGenerate,
      PROMPTS.frequent_words.answerPrefix,
      setting,
    );
  }
}

function drawVocabulary(random: PythonRandom, size: number, letters: number, seed: number): string[] {
  const drawn = new Set<string>();
  for (let i = 0; i < size; i++) drawn.add(random.choiceString(LETTERS, letters));
  while (drawn.size < size) drawn.add(random.choiceString(LETTERS, letters));
  const sorted = [...drawn].sort(compareCodePoints);
  const words = Array.from(seededPermutation(seed, sorted.length), (i) => sorted[i]!);
  // The commonest "word" is noise.
  words[0] = "...";
  return words;
}

/** How often each rank's word is written; the order of the operations is the bytes. */
export function zetaCounts(words: number, ranks: number, alpha: number, scale: number): number[] {
  return Array.from({ length: ranks }, (_, i) =>
    Math.max(0, Math.trunc((words * (i + 1) ** -alpha) / scale)),
  );
}
