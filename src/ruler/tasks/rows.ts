// SPDX-License-Identifier: Apache-2.0
// From a finished prompt to a row, and the little text surgery all tasks share.

import { splitSpace } from "../text/python-text.ts";
import type { RulerRow, TaskSetting } from "./setting.ts";

/** `remove_newline_tab`: everything on one line, single spaces. */
export function onOneLine(text: string): string {
  return splitSpace(text.replaceAll("\n", " ").replaceAll("\t", " ")).join(" ");
}

/** Cuts the answer prefix off, found by the start of its template as upstream finds it. */
export function splitPrefix(text: string, prefixTemplate: string): { input: string; answerPrefix: string } {
  const found = text.lastIndexOf(prefixTemplate.slice(0, 10));
  // Python's rfind gives -1, and slicing by it takes the last character: the template was changed under us.
  const cut = found >= 0 ? found : text.length - 1;
  return { input: text.slice(0, cut), answerPrefix: text.slice(cut) };
}

export function makeRow(
  index: number,
  text: string,
  outputs: readonly string[],
  length: number,
  prefixTemplate: string,
  setting: TaskSetting,
): RulerRow {
  const { input, answerPrefix } = splitPrefix(text, prefixTemplate);
  return {
    index,
    input,
    outputs,
    length,
    length_w_model_temp: length + setting.templateTokens,
    answer_prefix: answerPrefix,
  };
}
