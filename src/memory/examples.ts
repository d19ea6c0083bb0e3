// SPDX-License-Identifier: Apache-2.0
// Test prompts as JSON: { "examples": [{ "code": ..., "prompt": ... }] } as Code-LLaVA's inference takes
// them, or entries with `text` or `messages` of their own.

import { DataError, describe } from "../errors.ts";
import { type ChatMessage, isMessage } from "../model/chat-template.ts";
import { PythonRandom } from "../ruler/random/python.ts";
import { MEMORY_END, MEMORY_START, MEMORY_TOKEN, parseMemorySpans } from "./spans.ts";

/** A test prompt, ready for PromptCompressor.compress(). */
export interface Example {
  /** Place in the file. */
  readonly index: number;
  readonly prompt: string | ChatMessage[];
}

/**
 * The examples of a file. A prompt's <|memory|> stands for its code; a prompt without one gets it at its end.
 * @param chat whether code and prompt become a message of the user (else ChatML written out, as the
 *   original does for a model without a template)
 * @throws DataError ERR_MEMORY_EXAMPLES; ERR_MEMORY_NESTED and its kin, with the example they are in
 */
export function parseExamples(json: string, options: { file: string; chat: boolean }): Example[] {
  const { file, chat } = options;
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw bad(file, "JSON", cause instanceof Error ? cause.message : String(cause), cause);
  }
  const list = Array.isArray(value) ? value : (value as { examples?: unknown } | null)?.examples;
  if (!Array.isArray(list) || list.length === 0)
    throw bad(file, "a list, or an object with a list of examples", describe(value));
  return list.map((entry: unknown, index) => {
    const where = `${file}: examples[${index}]`;
    const prompt = examplePrompt(where, entry, chat);
    // Said now, with its place, rather than after the models are loaded.
    if (typeof prompt === "string") parseMemorySpans(prompt, where);
    else
      for (const [i, { content }] of prompt.entries()) parseMemorySpans(content, `${where}.messages[${i}]`);
    return { index, prompt };
  });
}

function examplePrompt(where: string, entry: unknown, chat: boolean): string | ChatMessage[] {
  const record = (typeof entry === "object" && entry !== null ? entry : {}) as Record<string, unknown>;
  const { text, messages, code, prompt } = record;
  if (typeof text === "string" && text !== "") return text;
  if (Array.isArray(messages) && messages.length > 0 && messages.every(isMessage)) return messages;
  if (typeof code !== "string" || typeof prompt !== "string")
    throw bad(where, "`code` and `prompt`, `text`, or `messages`", describe(entry));
  const memory = MEMORY_START + code.trim() + MEMORY_END;
  const asked = prompt.trim();
  // The code is put in by its place: a replacement text would give $& and its kin a meaning.
  const content = asked.includes(MEMORY_TOKEN)
    ? asked.split(MEMORY_TOKEN).join(memory)
    : `${asked} ${memory}`;
  if (chat) return [{ role: "user", content }];
  return `<|im_start|>user\n${content}<|im_end|>\n<|im_start|>assistant\n`;
}

/** `count` of the examples, drawn as Python's random.seed(seed), random.sample() draws them; all when there are fewer. */
export function sampleExamples(
  examples: readonly Example[],
  count: number | undefined,
  seed: number,
): Example[] {
  if (count === undefined || count >= examples.length) return [...examples];
  return new PythonRandom(seed).sample(examples, count);
}

function bad(file: string, expected: string, got: string, cause?: unknown): DataError {
  return new DataError("ERR_MEMORY_EXAMPLES", `${file}: expected ${expected}, got ${got}`, {
    details: { file, expected, got },
    remedies: ['Write { "examples": [{ "code": "...", "prompt": "<|memory|> Summarise this." }] }.'],
    cause,
  });
}
