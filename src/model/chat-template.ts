// SPDX-License-Identifier: Apache-2.0
// Messages to prompt text by the model's own jinja template, and where each message lies in the tokens.

import { Template } from "@huggingface/jinja";
import { ModelError, misuse } from "../errors.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface ChatMessage {
  /** "system", "user", "assistant", or whatever the template knows. */
  role: string;
  content: string;
}

/** Where a message lies in the prompt: tokens [startToken, endToken), the template's marks included. */
export interface MessageBoundary extends ChatMessage {
  startToken: number;
  endToken: number;
}

export interface TemplateOptions {
  /** End with the header of the assistant's answer. Default true. */
  addGenerationPrompt?: boolean;
  /** Values for variables of the template, `enable_thinking` for example. */
  variables?: Record<string, unknown>;
}

/** A parsed chat template, bound to its tokenizer. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #tokenizer: Tokenizer;

  /** @throws ModelError ERR_TEMPLATE_MISSING when the tokenizer has none, ERR_TEMPLATE when it does not parse. */
  constructor(tokenizer: Tokenizer, source: string | undefined = tokenizer.chatTemplate) {
    if (source === undefined)
      throw new ModelError(
        "ERR_TEMPLATE_MISSING",
        "chat: expected a model with a chat template, got one without",
        {
          remedies: [
            "use generate() with a prompt written out",
            "pass { template } with jinja source to chat()",
          ],
        },
      );
    this.#tokenizer = tokenizer;
    try {
      this.#template = new Template(source);
    } catch (cause) {
      throw templateError("could not be parsed", cause);
    }
  }

  /** The prompt text of a conversation. */
  render(messages: readonly ChatMessage[], options: TemplateOptions = {}): string {
    try {
      return this.#template.render({
        bos_token: this.#tokenizer.bosToken ?? "",
        eos_token: this.#tokenizer.eosToken ?? "",
        tools: null,
        documents: null,
        ...options.variables,
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: options.addGenerationPrompt ?? true,
      });
    } catch (cause) {
      throw templateError("refused these messages", cause);
    }
  }

  /**
   * Where each message lies in `tokens`, which are those of the whole conversation. Found by rendering
   * the conversation message by message; a template that refuses a shorter one (a system message alone)
   * counts that message's tokens to the next.
   */
  boundaries(
    messages: readonly ChatMessage[],
    tokens: Int32Array,
    options: TemplateOptions = {},
  ): MessageBoundary[] {
    let start = 0;
    return messages.map(({ role, content }, index) => {
      const end = Math.max(start, this.#prefixTokens(messages.slice(0, index + 1), tokens, options));
      const boundary = { role, content, startToken: start, endToken: end };
      start = end;
      return boundary;
    });
  }

  #prefixTokens(messages: readonly ChatMessage[], tokens: Int32Array, options: TemplateOptions): number {
    let text: string;
    try {
      text = this.render(messages, { ...options, addGenerationPrompt: false });
    } catch {
      return 0;
    }
    const part = this.#tokenizer.encode(text, { addSpecialTokens: false });
    let same = 0;
    while (same < part.length && same < tokens.length && part[same] === tokens[same]) same++;
    return same;
  }
}

/** @throws TypeError ERR_MESSAGES when the value is not a conversation. */
export function checkMessages(where: string, value: unknown): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0)
    throw misuse(TypeError, "ERR_MESSAGES", where, "at least one { role, content }", value);
  value.forEach((entry, index) => {
    if (!isMessage(entry))
      throw misuse(
        TypeError,
        "ERR_MESSAGES",
        `${where}[${index}]`,
        "{ role: string, content: string }",
        entry,
      );
  });
  return value as ChatMessage[];
}

export function isMessage(value: unknown): value is ChatMessage {
  if (typeof value !== "object" || value === null) return false;
  const { role, content } = value as Record<string, unknown>;
  return typeof role === "string" && typeof content === "string";
}

function templateError(what: string, cause: unknown): ModelError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ModelError("ERR_TEMPLATE", `chat template ${what}: ${reason}`, { cause });
}
