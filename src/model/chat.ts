// SPDX-License-Identifier: Apache-2.0
// From a conversation to the tokens of its prompt, the beginning of the answer included.

import { misuse } from "../errors.ts";
import { checkObject, checkString } from "../steering/check.ts";
import { type ChatMessage, ChatTemplate, checkMessages, type MessageBoundary } from "./chat-template.ts";
import { GENERATE_KEYS, type GenerateOptions, openOptions } from "./request.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface ChatOptions extends GenerateOptions {
  /** Text the answer begins with; the model goes on from it. */
  prefill?: string;
  /** Jinja source in place of the model's own chat template. */
  template?: string;
  /** Values for variables of the template, for example { enable_thinking: false }. */
  templateVariables?: Record<string, unknown>;
}

export interface PreparedChat {
  tokens: Int32Array;
  prefill: string;
  boundaries: MessageBoundary[];
  /** What is left for generate(). */
  options: GenerateOptions;
}

const CHAT_KEYS = [...GENERATE_KEYS, "prefill", "template", "templateVariables"] as const;

export function openChat(where: string, options: unknown): Partial<ChatOptions> {
  return openOptions<ChatOptions>(where, options, CHAT_KEYS);
}

/** @throws ModelError ERR_TEMPLATE_MISSING, ERR_TEMPLATE; TypeError ERR_MESSAGES, ERR_TOKENIZER_MISSING. */
export function prepareChat(
  tokenizer: Tokenizer | undefined,
  given: readonly ChatMessage[],
  chat: Partial<ChatOptions>,
): PreparedChat {
  const { prefill = "", template, templateVariables, ...options } = chat;
  checkString("prefill", prefill);
  const messages = checkMessages("messages", given);
  if (!tokenizer)
    throw misuse(TypeError, "ERR_TOKENIZER_MISSING", "chat", "a model with a tokenizer", "none");
  const source = template === undefined ? tokenizer.chatTemplate : checkString("template", template);
  const variables = checkObject("templateVariables", templateVariables);
  const jinja = new ChatTemplate(tokenizer, source);
  // Templates write the beginning-of-sequence token themselves.
  const special = { addSpecialTokens: options.addSpecialTokens ?? false };
  const text = jinja.render(messages, { variables }) + prefill;
  const tokens = tokenizer.encode(text, special);
  return { tokens, prefill, boundaries: jinja.boundaries(messages, tokens, { variables }), options };
}
