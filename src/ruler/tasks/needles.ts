// SPDX-License-Identifier: Apache-2.0
// niah: keys with magic values hidden in noise, essays or other needles, and a question after some of them.
// Source: NVIDIA/RULER's niah task at c3f5e3b4 (behaviour, order of random draws included).

import { PythonRandom, seededPermutation } from "../random/python.ts";
import { codePointOffset, formatTemplate } from "../text/python-text.ts";
import { makeRow, onOneLine } from "./rows.ts";
import type { RulerRow, TaskSetting } from "./setting.ts";
import { type Draft, DraftFault, fitDraft, searchSize } from "./sizing.ts";
import type { NeedleType, NiahSettings } from "./table.ts";
import { NEEDLE, NOISE, PROMPTS } from "./templates.ts";

/** Percent of the sentences after which a needle may stand. */
export const DEPTHS: readonly number[] = [
  0, 3, 5, 8, 10, 13, 15, 18, 21, 23, 26, 28, 31, 33, 36, 38, 41, 44, 46, 49, 51, 54, 56, 59, 62, 64, 67, 69,
  72, 74, 77, 79, 82, 85, 87, 90, 92, 95, 97, 100,
];

export function* needleRows(settings: NiahSettings, setting: TaskSetting): Generator<RulerRow> {
  const random = new PythonRandom(setting.seed);
  const limit = setting.length - setting.templateTokens;
  const short = settings.haystack !== "essay" && setting.length < 4096;
  const step = settings.haystack === "essay" ? 500 : short ? 5 : 25;
  const draft = (size: number) => draftNeedles(settings, setting, random, size);
  const measure = (text: string) => setting.counter.count(text);

  const perUnit = measure(draft(step).text) / step;
  const size = searchSize(
    {
      lower: step,
      upper: Math.max(Math.trunc((limit / perUnit) * 3), step * 2),
      limit,
      measure: (n) => measure(draft(n).text) + setting.tokensToGenerate,
    },
    setting.log,
  );

  for (let i = 0; i < setting.samples; i++) {
    const fitted = fitDraft(size ?? step, step, limit, setting.patience, (n) => {
      const made = draft(n);
      return { draft: made, length: measure(made.text) + setting.tokensToGenerate };
    });
    const text = setting.removeNewlineTab ? onOneLine(fitted.draft.text) : fitted.draft.text;
    const row = makeRow(i, text, fitted.draft.outputs, fitted.length, PROMPTS.niah.answerPrefix, setting);
    // Upstream's index is the first answer's place in the text, not the sample's number.
    const found = row.input.indexOf(row.outputs[0]!);
    row.index = found < 0 ? -1 : codePointOffset(row.input, found);
    row.token_position_answer = measure(row.input.slice(0, found));
    yield row;
  }
}

function draftNeedles(
  settings: NiahSettings,
  setting: TaskSetting,
  random: PythonRandom,
  size: number,
): Draft {
  const { data } = setting;
  const draw = (type: NeedleType): string => {
    if (type === "numbers") return String(random.randint(1_000_000, 9_999_999));
    if (type === "uuids") return random.uuid4();
    return data.pairedWord(random.randbelow(data.pairedWords));
  };
  const sentence = (key: string, value: string) =>
    formatTemplate(NEEDLE, { type_needle_v: settings.valueType, key, value });

  const keys: string[] = [];
  const values: string[][] = [];
  const written: string[] = [];
  for (let k = 0; k < settings.keys; k++) {
    const key = draw(settings.keyType);
    const own: string[] = [];
    for (let v = 0; v < settings.valuesPerKey; v++) {
      const value = draw(settings.valueType);
      own.push(value);
      written.push(sentence(key, value));
    }
    keys.push(key);
    values.push(own);
  }
  const order = seededPermutation(setting.seed, written.length);
  const needles = Array.from(order, (i) => written[i]!);

  let context: string;
  if (settings.haystack === "essay") {
    if (needles.length > DEPTHS.length) throw new DraftFault("more needles than depths");
    context = intoSentences(data.essaySentences(size), needles, random);
  } else {
    const lines: string[] =
      settings.haystack === "noise"
        ? new Array<string>(size).fill(NOISE)
        : Array.from({ length: size }, () => {
            const key = draw(settings.keyType);
            return sentence(key, draw(settings.valueType));
          });
    context = intoLines(lines, needles, random);
  }

  if (settings.queries > settings.keys) throw new DraftFault("more queries than keys");
  const asked = random.sampleIndices(settings.keys, settings.queries);
  const queries = asked.map((i) => keys[i]!);
  const query =
    queries.length > 1 ? `${queries.slice(0, -1).join(", ")}, and ${queries.at(-1)}` : queries[0]!;

  let { template } = setting;
  let type: string = settings.valueType;
  if (settings.queries * settings.valuesPerKey === 1) {
    // Singular, over the whole template and whatever the model's part of it says.
    template = template
      .replaceAll("Some", "A")
      .replaceAll("are all", "is")
      .replaceAll("are", "is")
      .replaceAll("answers", "answer");
    type = type.slice(0, -1);
  }
  return {
    text: formatTemplate(template, { type_needle_v: type, context, query }),
    outputs: asked.flatMap((i) => values[i]!),
  };
}

/** Needles between sentences. Empty stretches still add their space, as upstream's do. */
export function intoSentences(
  sentences: readonly string[],
  needles: readonly string[],
  random: PythonRandom,
): string {
  const places = random
    .sampleIndices(DEPTHS.length, needles.length)
    .map((d) => Math.trunc(sentences.length * (DEPTHS[d]! / 100)))
    .sort((a, b) => a - b);
  const bounds = [0, ...places, sentences.length];
  const parts: string[] = [];
  for (let i = 1; i < bounds.length; i++) {
    parts.push(sentences.slice(bounds[i - 1], bounds[i]).join(" "));
    if (i - 1 < needles.length) parts.push(needles[i - 1]!);
  }
  return parts.join(" ");
}

function intoLines(lines: string[], needles: readonly string[], random: PythonRandom): string {
  if (needles.length > lines.length) throw new DraftFault("more needles than lines");
  // From the last place up, so that earlier places stay valid.
  const places = random.sampleIndices(lines.length, needles.length).sort((a, b) => b - a);
  places.forEach((place, i) => {
    lines.splice(place, 0, needles[i]!);
  });
  return lines.join("\n");
}
