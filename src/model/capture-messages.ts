// SPDX-License-Identifier: Apache-2.0
// Rows of a conversation chosen by message. A message's tokens are those of the template between the end
// of the one before and its own end, its marks included; the answer begins where the last one ends.

import { describe, misuse } from "../errors.ts";
import type { MessageBoundary } from "./chat-template.ts";

/** Index of a message given (negative from the last one), a role (all its messages), or "answer". */
export type MessageReference = number | string;

/** Rows of the answer have no end yet; positions are int32. */
const OPEN_END = 0x7fffffff;

/** Pairs [start, end) of absolute positions, one a message, ascending; undefined = all. @throws TypeError / RangeError ERR_MESSAGES. */
export function compileMessages(
  given: unknown,
  boundaries: readonly MessageBoundary[] | undefined,
  where: string,
): Int32Array {
  if (boundaries === undefined)
    throw misuse(
      TypeError,
      "ERR_MESSAGES",
      where,
      "a conversation as the prompt",
      "text, tokens or embeddings",
    );
  const all = [...boundaries.keys(), boundaries.length];
  const references: unknown[] = given === undefined ? all : Array.isArray(given) ? given : [given];
  const chosen = new Set<number>();
  references.forEach((reference, i) => {
    const at = Array.isArray(given) ? `${where}[${i}]` : where;
    for (const index of indices(reference, boundaries, at)) chosen.add(index);
  });
  const pairs: number[] = [];
  for (const index of [...chosen].sort((a, b) => a - b)) {
    const message = boundaries[index];
    if (message) pairs.push(message.startToken, message.endToken);
    else pairs.push(boundaries.at(-1)?.endToken ?? 0, OPEN_END);
  }
  return Int32Array.from(pairs);
}

/** The message a position belongs to; the number of messages for the answer. */
export function messageOf(position: number, boundaries: readonly MessageBoundary[]): number {
  const index = boundaries.findIndex(({ endToken }) => position < endToken);
  return index < 0 ? boundaries.length : index;
}

function indices(reference: unknown, boundaries: readonly MessageBoundary[], at: string): number[] {
  const count = boundaries.length;
  if (reference === "answer") return [count];
  if (typeof reference === "string") {
    const found = boundaries.flatMap(({ role }, index) => (role === reference ? [index] : []));
    if (found.length > 0) return found;
    const roles = [...new Set(boundaries.map(({ role }) => role)), "answer"];
    throw misuse(RangeError, "ERR_MESSAGES", at, `one of ${roles.join(", ")}`, reference);
  }
  if (typeof reference === "number" && Number.isInteger(reference)) {
    const index = reference < 0 ? count + reference : reference;
    if (index >= 0 && index <= count) return [index];
    throw misuse(
      RangeError,
      "ERR_MESSAGES",
      at,
      `a message from -${count} to ${count} (the answer)`,
      reference,
    );
  }
  throw misuse(TypeError, "ERR_MESSAGES", at, "the index or role of a message", describe(reference));
}
