// SPDX-License-Identifier: Apache-2.0
// qa: a question whose paragraphs stand among others. Source: NVIDIA/RULER's qa task.

import { misuse } from "../../errors.ts";
import type { QuestionSet } from "../data/questions.ts";
import { PythonRandom, seededPermutation } from "../random/python.ts";
import { formatTemplate } from "../text/python-text.ts";
import { makeRow, onOneLine } from "./rows.ts";
import type { RulerRow, TaskSetting } from "./setting.ts";
import { type Draft, DraftFault, fitDraft, searchSize } from "./sizing.ts";
import type { QuestionSettings } from "./table.ts";
import { PROMPTS } from "./templates.ts";

const STEP = 10;

export function* questionRows(settings: QuestionSettings, setting: TaskSetting): Generator<RulerRow> {
  const set = setting.data.questions(settings.dataset);
  const last = setting.skipped + setting.samples;
  if (last > set.questions.length)
    throw misuse(
      RangeError,
      "ERR_RULER_SAMPLES",
      `${settings.dataset} samples`,
      `at most ${set.questions.length}, the questions in the data`,
      last,
    );
  const random = new PythonRandom(setting.seed);
  const draft = (question: number, size: number) => draftQuestion(set, question, size, random, setting);
  const limit = setting.length - setting.templateTokens;
  const count = (text: string) => setting.counter.count(text);

  const perDocument = count(draft(0, STEP).text) / STEP;
  const size = searchSize(
    {
      lower: STEP,
      upper: Math.max(Math.trunc((limit / perDocument) * 3), STEP * 2),
      limit,
      measure: (n) => count(draft(0, n).text) + setting.tokensToGenerate,
    },
    setting.log,
  );
  for (let i = 0; i < setting.samples; i++) {
    const { draft: made, length } = fitDraft(size ?? STEP, STEP, limit, setting.patience, (n) => {
      const drawn = draft(setting.skipped + i, n);
      return { draft: drawn, length: count(drawn.text) + setting.tokensToGenerate };
    });
    const text = setting.removeNewlineTab ? onOneLine(made.text) : made.text;
    yield makeRow(i, text, made.outputs, length, PROMPTS.qa.answerPrefix, setting);
  }
}

function draftQuestion(
  set: QuestionSet,
  question: number,
  size: number,
  random: PythonRandom,
  setting: TaskSetting,
): Draft {
  const { documents } = set;
  const { query, outputs, own, related } = set.questions[question]!;
  let chosen: string[];
  if (size < documents.length) {
    const room = size - own.length;
    let ids: readonly number[];
    if (room > related.length) {
      const near = new Set([...own, ...related]);
      const others = documents.map((_, i) => i).filter((i) => !near.has(i));
      const more = Math.max(0, room - related.length);
      if (more > others.length) throw new DraftFault("not enough documents");
      ids = [...own, ...related, ...random.sample(others, more)];
    } else {
      if (room < 0) throw new DraftFault("the question has more documents of its own");
      ids = [...own, ...random.sample(related, room)];
    }
    chosen = ids.map((i) => documents[i]!);
  } else chosen = Array.from({ length: size }, (_, i) => documents[i % documents.length]!);

  const order = seededPermutation(setting.seed, chosen.length);
  const context = Array.from(order, (from, i) => `Document ${i + 1}:\n${chosen[from]}`).join("\n\n");
  return { text: formatTemplate(setting.template, { context, query }), outputs };
}
