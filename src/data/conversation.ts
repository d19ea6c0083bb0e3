// SPDX-License-Identifier: Apache-2.0
// The first thing an assistant said in a conversation column, by the Python chatspace's rule.

import { DataError, describe } from "../errors.ts";

interface Turn {
  role?: unknown;
  content?: unknown;
}

/**
 * Text of the first turn whose role is "assistant" or "model" (any case) and whose content is not
 * empty, trimmed; null where there is none. Throws where `conversation` is not a list of turns.
 */
export function firstAssistantTurn(conversation: unknown, where: string): string | null {
  let turns: unknown = conversation;
  if (typeof turns === "string") {
    // JSON in a csv or text column.
    try {
      turns = JSON.parse(turns);
    } catch {
      turns = conversation;
    }
  }
  if (!Array.isArray(turns)) {
    throw new DataError(
      "ERR_CONVERSATION_SHAPE",
      `${where}: expected a list of {role, content} turns, got ${describe(conversation)}`,
      {
        details: { where },
        remedies: ["name the column of turns by --text-field", "leave out --extract-first-assistant"],
      },
    );
  }
  for (const turn of turns as (Turn | null)[]) {
    const role = typeof turn?.role === "string" ? turn.role.toLowerCase() : "";
    if (role !== "assistant" && role !== "model") continue;
    const content = turn?.content;
    if (content === null || content === undefined || content === "" || content === false || content === 0)
      continue;
    return (typeof content === "string" ? content : JSON.stringify(content)).trim();
  }
  return null;
}
