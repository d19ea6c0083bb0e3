// SPDX-License-Identifier: Apache-2.0
// What every generator is given and what it gives back.

import type { Haystacks } from "../data/haystacks.ts";
import type { TokenCounter } from "../tokens/counter.ts";
import type { Probe } from "./sizing.ts";

/** One run of one task: the same for all its samples. */
export interface TaskSetting {
  readonly counter: TokenCounter;
  /** Tokens a prompt and its answer may take together, as asked for. */
  readonly length: number;
  /** Tokens of the model template, taken off the length where it is added later (`prepare_for_ns`). */
  readonly templateTokens: number;
  readonly tokensToGenerate: number;
  readonly samples: number;
  /** Samples of earlier chunks; questions go on from there. */
  readonly skipped: number;
  readonly seed: number;
  /** Model template around the task template, then the answer prefix. */
  readonly template: string;
  readonly removeNewlineTab: boolean;
  readonly data: Haystacks;
  /** Tries at the smallest size before a sample counts as impossible. */
  readonly patience: number;
  readonly log: (probe: Probe) => void;
}

/** A line of validation.jsonl; key order is part of the format. */
export interface RulerRow {
  index: number;
  input: string;
  outputs: readonly string[];
  length: number;
  length_w_model_temp: number;
  answer_prefix: string;
  token_position_answer?: number;
}
