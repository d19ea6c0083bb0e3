// SPDX-License-Identifier: Apache-2.0
// Where the placeholders of each span lie in the token ids, and the check that there are as many as chunks.

import { DataError, ModelError } from "../errors.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { MEMORY_END, MEMORY_START, MEMORY_TOKEN } from "./spans.ts";

/** Ids of the three markers. */
export interface MemoryTokenIds {
  readonly start: number;
  readonly end: number;
  readonly memory: number;
}

/** @throws ModelError ERR_MEMORY_TOKEN when the tokenizer lacks one of the markers. */
export function memoryTokenIds(tokenizer: Tokenizer, where: string): MemoryTokenIds {
  const id = (text: string): number => {
    const encoded =
      tokenizer.idOf(text) === undefined ? [] : tokenizer.encode(text, { addSpecialTokens: false });
    if (encoded.length === 1) return encoded[0]!;
    throw new ModelError(
      "ERR_MEMORY_TOKEN",
      `${where}: expected ${text} as one token, got ${encoded.length}`,
      {
        details: { where, token: text, ids: [...encoded] },
        remedies: ["Take the tokenizer of the checkpoint, to which its training added the memory tokens."],
      },
    );
  };
  return { start: id(MEMORY_START), end: id(MEMORY_END), memory: id(MEMORY_TOKEN) };
}

/**
 * Rows [start, end) of the placeholders of each span.
 * @param counts rows each span has to have, in order
 * @throws DataError ERR_MEMORY_COUNT when the ids hold other spans or other numbers of placeholders; both
 *   counts are in it
 */
export function locatePlaceholders(
  tokens: Int32Array,
  counts: readonly number[],
  ids: MemoryTokenIds,
): [start: number, end: number][] {
  const placeholders = tokens.reduce((sum, id) => sum + (id === ids.memory ? 1 : 0), 0);
  const chunks = counts.reduce((sum, count) => sum + count, 0);
  const mismatch = (span: number | null, got: string) =>
    new DataError(
      "ERR_MEMORY_COUNT",
      `prompt: expected ${chunks} placeholders for ${chunks} chunks in ${counts.length} spans, got ${placeholders}${got}`,
      {
        details: { chunks, placeholders, spans: counts.length, span },
        remedies: [
          `Write no ${MEMORY_TOKEN} of your own outside the spans.`,
          "A chat template that drops or doubles a message changes the count: look at what it renders.",
        ],
      },
    );
  if (placeholders !== chunks) throw mismatch(null, "");
  const places: [number, number][] = [];
  for (let at = 0; at < tokens.length; at++) {
    if (tokens[at] !== ids.start) continue;
    const start = at + 1;
    let end = start;
    while (tokens[end] === ids.memory) end++;
    const span = places.length;
    const wanted = counts[span];
    if (wanted === undefined) throw mismatch(span, " and a span too many");
    if (end - start !== wanted || tokens[end] !== ids.end)
      throw mismatch(span, `, of which span ${span} has ${end - start} of ${wanted}`);
    places.push([start, end]);
    at = end;
  }
  if (places.length !== counts.length) throw mismatch(null, ` in ${places.length} spans`);
  return places;
}
