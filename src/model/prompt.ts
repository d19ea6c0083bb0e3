// SPDX-License-Identifier: Apache-2.0
// What a prompt may be, and its turning into token ids (or embeddings) that fit the model.

import { misuse } from "../errors.ts";
import { checkKeys, checkTokenIds, isNumberList } from "../steering/check.ts";
import { finiteVector } from "../steering/vector.ts";
import { type ChatMessage, ChatTemplate, isMessage, type MessageBoundary } from "./chat-template.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Token ids, as typed array or numbers. */
export type TokenIds = Int32Array | Uint32Array | readonly number[];

/** Embeddings in place of tokens: [tokens, hidden] row-major. */
export interface PromptEmbeddings {
  promptEmbeddings: Float32Array;
  shape: readonly [tokens: number, hidden: number];
}

/** A text, a conversation, token ids or embeddings. */
export type Prompt = string | readonly ChatMessage[] | { tokens: TokenIds } | TokenIds | PromptEmbeddings;

export interface EncodedPrompt {
  tokens: Int32Array;
  embeddingRows: Int32Array | null;
  embeddings: Float32Array | null;
}

/** What a prompt is checked against. */
export interface PromptModel {
  tokenizer: Tokenizer | undefined;
  vocabSize: number;
  hiddenSize: number;
  /** 0 = not known. */
  contextLength: number;
}

/** Whether a value is a list of prompts rather than one prompt. */
export function isPromptList(value: unknown): value is readonly Prompt[] {
  if (!Array.isArray(value) || value.length === 0) return false;
  const first: unknown = value[0];
  return typeof first !== "number" && !isMessage(first);
}

/**
 * Token ids of a prompt.
 * @throws RangeError ERR_PROMPT_EMPTY, ERR_PROMPT_TOO_LONG, ERR_TOKEN_RANGE; TypeError.
 */
export function encodePrompt(
  prompt: unknown,
  model: PromptModel,
  options: { addSpecialTokens?: boolean; where?: string } = {},
): EncodedPrompt {
  const where = options.where ?? "prompt";
  const encoded = encode(prompt, model, where, options.addSpecialTokens);
  const length = encoded.tokens.length;
  if (length === 0)
    throw misuse(
      RangeError,
      "ERR_PROMPT_EMPTY",
      where,
      "at least one token",
      typeof prompt === "string" ? prompt : "none",
    );
  if (model.contextLength > 0 && length > model.contextLength)
    throw misuse(
      RangeError,
      "ERR_PROMPT_TOO_LONG",
      where,
      `at most ${model.contextLength} tokens, the context of the model`,
      length,
    );
  return encoded;
}

function encode(
  prompt: unknown,
  model: PromptModel,
  where: string,
  addSpecialTokens: boolean | undefined,
): EncodedPrompt {
  const ids = (tokens: Int32Array) => ({ tokens, embeddingRows: null, embeddings: null });
  if (typeof prompt === "string") {
    const text = needTokenizer(model, where);
    // "" is refused even where a beginning-of-sequence token would make it one token long.
    return ids(
      prompt === "" ? new Int32Array(0) : text.encode(prompt, encodeOptions(addSpecialTokens ?? true)),
    );
  }
  const list = isNumberList(prompt);
  if (list && !(Array.isArray(prompt) && isMessage(prompt[0])))
    return ids(checkTokenIds(where, list, model.vocabSize));
  if (list) {
    const text = needTokenizer(model, where);
    const rendered = new ChatTemplate(text).render(prompt as ChatMessage[]);
    return ids(text.encode(rendered, encodeOptions(addSpecialTokens ?? false)));
  }
  if (typeof prompt === "object" && prompt !== null && "tokens" in prompt) {
    checkKeys(where, prompt, ["tokens"]);
    return ids(checkTokenIds(`${where}.tokens`, prompt.tokens, model.vocabSize));
  }
  if (typeof prompt === "object" && prompt !== null && "promptEmbeddings" in prompt)
    return embedded(prompt as PromptEmbeddings, model, where);
  throw misuse(
    TypeError,
    "ERR_ARGUMENT_TYPE",
    where,
    "a string, messages, { tokens } or { promptEmbeddings, shape }",
    prompt,
  );
}

/** Where the messages of a conversation lie in its tokens; undefined for every other prompt. */
export function messageBoundaries(
  prompt: unknown,
  tokens: Int32Array,
  model: PromptModel,
): MessageBoundary[] | undefined {
  if (!Array.isArray(prompt) || !isMessage(prompt[0]) || !model.tokenizer) return undefined;
  return new ChatTemplate(model.tokenizer).boundaries(prompt as ChatMessage[], tokens);
}

function encodeOptions(addSpecialTokens: boolean) {
  return { addSpecialTokens };
}

function needTokenizer(model: PromptModel, where: string): Tokenizer {
  if (model.tokenizer) return model.tokenizer;
  throw Object.assign(
    misuse(TypeError, "ERR_TOKENIZER_MISSING", where, "token ids, as this model has no tokenizer", "text"),
    { remedies: ["load the model with { tokenizer: FOLDER }", "pass { tokens: [...] }"] },
  );
}

function embedded(prompt: PromptEmbeddings, model: PromptModel, where: string): EncodedPrompt {
  checkKeys(where, prompt, ["promptEmbeddings", "shape"]);
  const { promptEmbeddings: data, shape } = prompt;
  if (!(data instanceof Float32Array))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.promptEmbeddings`, "a Float32Array", data);
  const rows = data.length / model.hiddenSize;
  const fits = Array.isArray(shape) && shape.length === 2 && shape[0] * shape[1] === data.length;
  if (!fits || shape[1] !== model.hiddenSize)
    throw misuse(
      RangeError,
      "ERR_EMBEDDING_SHAPE",
      `${where}.shape`,
      `[tokens, ${model.hiddenSize}] for ${data.length} numbers`,
      Array.isArray(shape) ? `[${shape.join(", ")}]` : shape,
    );
  return {
    tokens: new Int32Array(rows),
    embeddingRows: Int32Array.from({ length: rows }, (_, row) => row),
    embeddings: finiteVector(`${where}.promptEmbeddings`, data),
  };
}
