// SPDX-License-Identifier: Apache-2.0
// vt: chains of variable assignments hidden in noise or essays; which variables hold the first value?
// A worked example of up to 500 tokens stands before the question. Source: NVIDIA/RULER's variable_tracking.

import { NumpyRandom } from "../random/numpy.ts";
import { PythonRandom } from "../random/python.ts";
import { formatTemplate, splitSpace, strip } from "../text/python-text.ts";
import { intoSentences } from "./needles.ts";
import { makeRow, onOneLine } from "./rows.ts";
import type { RulerRow, TaskSetting } from "./setting.ts";
import { type Draft, DraftFault, fitDraft, searchSize } from "./sizing.ts";
import type { VariableTrackingSettings } from "./table.ts";
import { NOISE, PROMPTS } from "./templates.ts";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const EXAMPLE_VALUE = "12345";
const EXAMPLE_TOKENS = 500;

interface Streams {
  readonly python: PythonRandom;
  readonly numpy: NumpyRandom;
}

export function* variableRows(settings: VariableTrackingSettings, setting: TaskSetting): Generator<RulerRow> {
  const streams = { python: new PythonRandom(setting.seed), numpy: new NumpyRandom(setting.seed) };
  const count = (text: string) => setting.counter.count(text);
  const example = makeExample(settings, setting, streams);
  const exampleText = `${example.text} ${example.outputs.join(" ")}\n`;
  const exampleTokens = count(exampleText);

  const limit = setting.length - setting.templateTokens;
  const step = settings.haystack === "essay" ? 500 : setting.length < 4096 ? 5 : 10;
  const draft = (size: number) => draftChains(settings, setting, streams, size, setting.template);
  const size = searchSize(
    {
      lower: step,
      upper: upperBound(count(draft(step).text), step, limit),
      limit,
      measure: (n) => count(draft(n).text) + exampleTokens + setting.tokensToGenerate,
    },
    setting.log,
  );

  for (let i = 0; i < setting.samples; i++) {
    const { draft: made, length } = fitDraft(size ?? step, step, limit, setting.patience, (n) => {
      const { text: plain, outputs } = draft(n);
      // The example goes inside the model's template, before the task.
      const cut = plain.indexOf(PROMPTS.variable_tracking.task.slice(0, 20));
      const shown = reworded(exampleText, settings.hops, streams);
      let text = `${plain.slice(0, cut) + shown}\n${plain.slice(cut)}`;
      if (setting.removeNewlineTab) text = onOneLine(text);
      return { draft: { text, outputs }, length: count(text) + setting.tokensToGenerate };
    });
    yield makeRow(i, made.text, made.outputs, length, PROMPTS.variable_tracking.answerPrefix, setting);
  }
}

function upperBound(tokens: number, step: number, limit: number): number {
  return Math.max(Math.trunc((limit / (tokens / step)) * 3), step * 2);
}

function makeExample(settings: VariableTrackingSettings, setting: TaskSetting, streams: Streams): Draft {
  const limit = EXAMPLE_TOKENS - setting.templateTokens;
  const step = settings.haystack === "essay" ? 50 : 5;
  const template = PROMPTS.variable_tracking.task + PROMPTS.variable_tracking.answerPrefix;
  const draft = (size: number) => draftChains(settings, setting, streams, size, template, "example");
  const count = (text: string) => setting.counter.count(text);
  const size = searchSize(
    {
      lower: step,
      upper: upperBound(count(draft(step).text), step, limit),
      limit,
      measure: (n) => count(draft(n).text),
    },
    setting.log,
  );
  return fitDraft(size ?? step, step, limit, setting.patience, (n) => {
    const made = draft(n);
    const text = setting.removeNewlineTab ? onOneLine(made.text) : made.text;
    return { draft: { ...made, text }, length: count(text) };
  }).draft;
}

function draftChains(
  settings: VariableTrackingSettings,
  setting: TaskSetting,
  streams: Streams,
  size: number,
  template: string,
  part: "sample" | "example" = "sample",
): Draft {
  const { names, chains } = drawChains(settings, streams, part);
  const value = strip(chains[0]![0]!.slice(chains[0]![0]!.lastIndexOf("=") + 1));
  let context: string;
  if (settings.haystack === "essay") {
    const items = interleaved(chains, streams.python).map((line) => `${strip(line)}.`);
    if (items.length > 40) throw new DraftFault("more assignments than depths");
    context = intoSentences(setting.data.essaySentences(size, "once"), items, streams.python);
  } else {
    const lines = new Array<string>(size).fill(NOISE);
    for (const chain of chains) {
      if (chain.length > lines.length) throw new DraftFault("more assignments than lines");
      const places = streams.python.sampleIndices(lines.length, chain.length).sort((a, b) => a - b);
      places.forEach((place, j) => {
        lines.splice(place + j, 0, chain[j]!);
      });
    }
    context = lines.join("\n");
  }
  context = context.replaceAll(". \n", ".\n");
  const text = formatTemplate(template, { context, query: value, num_v: String(settings.hops + 1) });
  return { text, outputs: names[0]! };
}

/** Chains of names, each assigned from the one before; the trailing space of a link is upstream's. */
function drawChains(settings: VariableTrackingSettings, streams: Streams, part: "sample" | "example") {
  const hops = part === "example" ? Math.min(10, settings.hops) : settings.hops;
  const letters = part === "example" ? 3 : 5;
  const wanted = settings.chains * (hops + 1);
  const all = Array.from({ length: wanted }, () => streams.python.choiceString(LETTERS, letters));
  const distinct = new Set(all);
  while (distinct.size < wanted) {
    const name = streams.python.choiceString(LETTERS, letters);
    all.push(name);
    distinct.add(name);
  }
  const names: string[][] = [];
  const chains: string[][] = [];
  for (let i = 0; i < all.length; i += hops + 1) {
    const own = all.slice(i, i + hops + 1);
    const value = part === "example" ? EXAMPLE_VALUE : String(streams.numpy.randint(10000, 99999));
    const chain = [`VAR ${own[0]} = ${value}`];
    for (let j = 0; j < hops; j++) {
      // A name drawn twice leaves a last chain too short: an IndexError upstream.
      if (j + 1 >= own.length) throw new DraftFault("a variable name came twice");
      chain.push(`VAR ${own[j + 1]} = VAR ${own[j]} `);
    }
    names.push(own);
    chains.push(chain);
  }
  return { names, chains };
}

/** Lines of all chains in random order, each chain's own order kept: a heap of one random priority a line. */
function interleaved(chains: readonly string[][], random: PythonRandom): string[] {
  const heads = chains.map((_, i) => ({ priority: random.random(), chain: i, line: 0 }));
  const result: string[] = [];
  while (heads.length > 0) {
    let least = 0;
    for (let i = 1; i < heads.length; i++) {
      const a = heads[i]!;
      const b = heads[least]!;
      if (a.priority < b.priority || (a.priority === b.priority && a.chain < b.chain)) least = i;
    }
    const head = heads.splice(least, 1)[0]!;
    result.push(chains[head.chain]![head.line]!);
    if (head.line + 1 < chains[head.chain]!.length)
      heads.push({ priority: random.random(), chain: head.chain, line: head.line + 1 });
  }
  return result;
}

/** The example with fresh names and a fresh value, replaced one after the other as upstream does. */
function reworded(example: string, hops: number, streams: Streams): string {
  let text = example;
  for (const name of splitSpace(example).slice(-hops - 1))
    text = text.replaceAll(name, streams.python.choiceString(LETTERS, name.length));
  return text.replaceAll(EXAMPLE_VALUE, String(streams.numpy.randint(10000, 99999)));
}
