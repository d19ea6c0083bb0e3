// SPDX-License-Identifier: Apache-2.0
// One task's rows, from options to bytes. Nothing here touches a file: `prepare.ts` writes what comes out.

import { DataError, misuse } from "../errors.ts";
import type { Haystacks } from "./data/haystacks.ts";
import { commonWordRows } from "./tasks/common-words.ts";
import { frequentWordRows } from "./tasks/frequent-words.ts";
import { needleRows } from "./tasks/needles.ts";
import { questionRows } from "./tasks/questions.ts";
import type { RulerRow, TaskSetting } from "./tasks/setting.ts";
import { DoesNotFit, DraftFault, type Probe } from "./tasks/sizing.ts";
import type { RulerTask } from "./tasks/table.ts";
import { MODEL_TEMPLATES, PROMPTS } from "./tasks/templates.ts";
import { variableRows } from "./tasks/variables.ts";
import { pythonJson } from "./text/python-text.ts";
import type { TokenCounter } from "./tokens/counter.ts";

export interface GenerateOptions {
  readonly counter: TokenCounter;
  readonly data: Haystacks;
  /** Tokens of prompt and answer together. */
  readonly length: number;
  /** Default 500, as upstream. */
  readonly samples?: number;
  /** Default 42; chunk `i` of several uses seed + i. */
  readonly seed?: number;
  /** A name of MODEL_TEMPLATES, or a text with {task_template}; default `base`. */
  readonly modelTemplate?: string;
  readonly removeNewlineTab?: boolean;
  readonly chunkIndex?: number;
  readonly chunkAmount?: number;
  /** The model template is added later: take its tokens off the length and leave it out. */
  readonly prepareForNs?: boolean;
  readonly onProbe?: (probe: Probe) => void;
}

/** Tries at the smallest size before a length counts as too short. Upstream would try for ever. */
const PATIENCE = 1000;

/**
 * The rows of one task, made one at a time.
 *
 * @throws DataError ERR_RULER_LENGTH where no sample can fit; it names the least length that works
 * @throws RangeError ERR_RULER_OPTION, ERR_RULER_TEMPLATE, ERR_RULER_SAMPLES
 */
export function* generateRows(task: RulerTask, options: GenerateOptions): Generator<RulerRow> {
  checkWhole("length", options.length, 1);
  const setting = makeSetting(task, options, options.length, PATIENCE);
  try {
    yield* rowsOf(task, setting);
  } catch (error) {
    if (error instanceof DoesNotFit) throw tooShort(task, options, error);
    if (error instanceof DraftFault)
      throw new DataError(
        "ERR_RULER_DRAFT",
        `${task.name} at ${options.length}: a trial sample cannot be made (${error.message}); upstream dies here`,
        {
          details: { task: task.name, length: options.length, reason: error.message },
          remedies: ["use another seed", "use a larger length"],
        },
      );
    throw error;
  }
}

/** A row as upstream writes it, newline included. */
export function rowLine(row: RulerRow): string {
  return `${pythonJson(row)}\n`;
}

function rowsOf(task: RulerTask, setting: TaskSetting): Generator<RulerRow> {
  const { settings } = task;
  switch (settings.kind) {
    case "niah":
      return needleRows(settings, setting);
    case "variable_tracking":
      return variableRows(settings, setting);
    case "common_words":
      return commonWordRows(settings, setting);
    case "frequent_words":
      return frequentWordRows(settings, setting);
    case "qa":
      return questionRows(settings, setting);
  }
}

function makeSetting(
  task: RulerTask,
  options: GenerateOptions,
  length: number,
  patience: number,
): TaskSetting {
  const { samples = 500, seed = 42, chunkIndex = 0, chunkAmount = 1 } = options;
  checkWhole("samples", samples, 1);
  checkWhole("seed", seed, 0, 0xffffffff);
  checkWhole("chunk_amount", chunkAmount, 1);
  checkWhole("chunk_idx", chunkIndex, 0, chunkAmount - 1);
  const chunkSize = (i: number) => Math.floor(samples / chunkAmount) + (i < samples % chunkAmount ? 1 : 0);
  let skipped = 0;
  for (let i = 0; i < chunkIndex; i++) skipped += chunkSize(i);

  const model = modelTemplate(options.modelTemplate ?? "base");
  const prompt = PROMPTS[task.settings.kind];
  const around = options.prepareForNs ? "{task_template}" : model;
  return {
    counter: options.counter,
    length,
    templateTokens: options.prepareForNs ? options.counter.count(model) : 0,
    tokensToGenerate: task.tokensToGenerate,
    samples: chunkSize(chunkIndex),
    skipped,
    seed: seed + chunkIndex,
    template: around.replace("{task_template}", () => prompt.task) + prompt.answerPrefix,
    removeNewlineTab: options.removeNewlineTab ?? false,
    data: options.data,
    patience,
    log: options.onProbe ?? (() => {}),
  };
}

function modelTemplate(name: string): string {
  const known = Object.hasOwn(MODEL_TEMPLATES, name) ? MODEL_TEMPLATES[name] : undefined;
  if (known !== undefined) return known;
  if (name.includes("{task_template}")) return name;
  throw misuse(
    RangeError,
    "ERR_RULER_TEMPLATE",
    "model template",
    `one of ${Object.keys(MODEL_TEMPLATES).join(", ")}, or a text with {task_template}`,
    name,
  );
}

function checkWhole(what: string, value: number, least: number, most = 0x7fffffff): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw misuse(RangeError, "ERR_RULER_OPTION", what, `a whole number from ${least} to ${most}`, value);
}

function tooShort(task: RulerTask, options: GenerateOptions, cause: DoesNotFit): DataError {
  const least = leastLength(task, options);
  const works = least === undefined ? "" : `; the least that works is ${least}`;
  return new DataError("ERR_RULER_LENGTH", `${task.name}: ${options.length} tokens are too few${works}`, {
    details: {
      task: task.name,
      length: options.length,
      least,
      shortestSeen: Number.isFinite(cause.shortest) ? cause.shortest : undefined,
      tokenizer: options.counter.name,
    },
    remedies: [least === undefined ? "use a larger length" : `use --length ${least} or more`],
  });
}

/** The least length at which this task, with these options, comes to an end. */
export function leastLength(task: RulerTask, options: GenerateOptions): number | undefined {
  const works = (length: number) => {
    try {
      for (const _ of rowsOf(task, makeSetting(task, { ...options, onProbe: () => {} }, length, 50)));
      return true;
    } catch (error) {
      if (error instanceof DoesNotFit || error instanceof DraftFault) return false;
      throw error;
    }
  };
  let low = options.length;
  let high = low;
  do {
    high = Math.ceil(high * 1.5);
    if (high > 1 << 20) return undefined;
  } while (!works(high));
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (works(middle)) high = middle;
    else low = middle;
  }
  return high;
}
