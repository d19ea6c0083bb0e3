// SPDX-License-Identifier: Apache-2.0
// Memory spans of a prompt: <|memory_start|> ... <|memory_end|>, found by position. Every way of writing
// them wrong has an error of its own; nothing is matched twice, moved or left half replaced.

import { DataError } from "../errors.ts";

export const MEMORY_START = "<|memory_start|>";
export const MEMORY_END = "<|memory_end|>";
/** The placeholder a compressed chunk is written over, one a chunk. */
export const MEMORY_TOKEN = "<|memory|>";

/** A piece of a prompt: text as it stands, or the inside of a span. */
export interface PromptSegment {
  readonly kind: "text" | "memory";
  readonly text: string;
  /** Where the piece begins in the prompt, in UTF-16 units; of a span, after its marker. */
  readonly offset: number;
}

/**
 * The pieces of a prompt in order; joined with their markers they are the prompt again.
 * @throws DataError ERR_MEMORY_NESTED (a span inside a span), ERR_MEMORY_UNCLOSED (a start without an
 *   end), ERR_MEMORY_UNOPENED (an end without a start), each with offsets.
 */
export function parseMemorySpans(prompt: string, where = "prompt"): PromptSegment[] {
  const segments: PromptSegment[] = [];
  let at = 0;
  for (;;) {
    const start = prompt.indexOf(MEMORY_START, at);
    const stray = prompt.indexOf(MEMORY_END, at);
    if (stray >= 0 && (start < 0 || stray < start))
      throw bad(
        "ERR_MEMORY_UNOPENED",
        where,
        `${MEMORY_START} before the end at ${stray}`,
        "none",
        prompt,
        stray,
      );
    if (start < 0) break;
    if (start > at) segments.push({ kind: "text", text: prompt.slice(at, start), offset: at });
    const inside = start + MEMORY_START.length;
    const end = prompt.indexOf(MEMORY_END, inside);
    const nested = prompt.indexOf(MEMORY_START, inside);
    if (nested >= 0 && (end < 0 || nested < end))
      throw bad(
        "ERR_MEMORY_NESTED",
        where,
        `${MEMORY_END} of the span at ${start} before another one starts`,
        `another start at ${nested}`,
        prompt,
        nested,
      );
    if (end < 0)
      throw bad("ERR_MEMORY_UNCLOSED", where, `${MEMORY_END} of the span at ${start}`, "none", prompt, start);
    segments.push({ kind: "memory", text: prompt.slice(inside, end), offset: inside });
    at = end + MEMORY_END.length;
  }
  if (at < prompt.length) segments.push({ kind: "text", text: prompt.slice(at), offset: at });
  return segments;
}

/** The prompt with each span's inside replaced by its placeholders; counts are in order of the spans. */
export function expandSegments(segments: readonly PromptSegment[], counts: readonly number[]): string {
  let span = 0;
  return segments
    .map(({ kind, text }) =>
      kind === "text" ? text : MEMORY_START + MEMORY_TOKEN.repeat(counts[span++] ?? 0) + MEMORY_END,
    )
    .join("");
}

function bad(
  code: string,
  where: string,
  expected: string,
  got: string,
  prompt: string,
  offset: number,
): DataError {
  const near = prompt.slice(Math.max(0, offset - 20), offset + 40);
  return new DataError(code, `${where}: expected ${expected}, got ${got} (near ${JSON.stringify(near)})`, {
    details: { where, offset, expected, got },
    remedies: [`Write each memory as ${MEMORY_START}...${MEMORY_END}, one after another, each closed.`],
  });
}
