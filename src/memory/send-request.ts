// SPDX-License-Identifier: Apache-2.0
// The requests that carry prompt embeddings to a server, as data: what is printed by a dry run is what is
// sent. Three forms: vLLM's completions, vLLM's chat, and the part of the vLLM fork that serves Code-LLaVA.

import { misuse } from "../errors.ts";
import type { PromptEmbeddings } from "../model/prompt.ts";
import { checkOneOf } from "../steering/check.ts";
import { encodePromptEmbeds, type WireDtype } from "./embedding-files.ts";

/**
 * "completions": POST /completions with `prompt_embeds`; the embeddings are the whole prompt, template and all.
 * "chat": POST /chat/completions with a `prompt_embeds` part; the embeddings are content of a message alone.
 * "embedding": POST /chat/completions with the fork's `embedding` part, which takes the place of the one
 * <|fim_pad|> of the text.
 */
export type PromptEmbedsApi = "completions" | "chat" | "embedding";

export interface PromptEmbedsRequestOptions {
  /** Base address, with /v1: `http://localhost:8000/v1`. */
  readonly url: string;
  readonly model: string;
  readonly api?: PromptEmbedsApi;
  readonly dtype?: WireDtype;
  /** Chat forms: text of the user's message before and after the embeddings. */
  readonly before?: string;
  readonly after?: string;
  /** Chat forms: a system message. */
  readonly system?: string;
  /** Default 512. */
  readonly maxTokens?: number;
  /** Default 0. */
  readonly temperature?: number;
  readonly topP?: number;
  readonly presencePenalty?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  /** More keys of the body. */
  readonly extraBody?: Readonly<Record<string, unknown>>;
  readonly apiKey?: string;
}

export interface PromptEmbedsRequest {
  readonly method: "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Readonly<Record<string, unknown>>;
}

const APIS = ["completions", "chat", "embedding"] as const;
/** What the fork puts the embeddings in place of. */
export const FORK_PLACEHOLDER = "<|fim_pad|>";

/** @throws TypeError ERR_ARGUMENT_TYPE for an address that is none, an unknown form, or text for completions */
export function promptEmbedsRequest(
  prompt: PromptEmbeddings,
  options: PromptEmbedsRequestOptions,
): PromptEmbedsRequest {
  const { url, model, dtype, before, after, system, apiKey, extraBody = {} } = options;
  const api = checkOneOf("api", options.api ?? "completions", APIS);
  if (!/^https?:\/\//.test(url) || !URL.canParse(url))
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "url",
      "an http address such as http://localhost:8000/v1",
      url,
    );
  if (api === "completions" && (before ?? after ?? system) !== undefined)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "before, after, system",
      "none of them for completions, whose embeddings are the whole prompt",
      before ?? after ?? system,
    );
  const data = encodePromptEmbeds(prompt, dtype);
  const sampling = {
    max_tokens: options.maxTokens ?? 512,
    temperature: options.temperature ?? 0,
    ...(options.topP === undefined ? {} : { top_p: options.topP }),
    ...(options.presencePenalty === undefined ? {} : { presence_penalty: options.presencePenalty }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    ...(options.stop === undefined || options.stop.length === 0 ? {} : { stop: options.stop }),
  };
  // vLLM takes "" for no text beside the embeddings; older ones want the key to be there.
  const asked =
    api === "completions"
      ? { prompt: "", prompt_embeds: data }
      : { messages: messagesOf(data, api, { before, after, system }) };
  return {
    method: "POST",
    url: `${url.replace(/\/+$/, "")}/${api === "completions" ? "completions" : "chat/completions"}`,
    headers: {
      "content-type": "application/json",
      ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
    },
    body: { model, ...asked, ...sampling, ...extraBody },
  };
}

function messagesOf(
  data: string,
  api: "chat" | "embedding",
  {
    before,
    after,
    system,
  }: { before: string | undefined; after: string | undefined; system: string | undefined },
): object[] {
  const text = (value: string | undefined) => (value === undefined ? [] : [{ type: "text", text: value }]);
  const part =
    api === "chat"
      ? { type: "prompt_embeds", data }
      : { type: "embedding", embedding: { data, encoding: "pt" } };
  return [
    ...(system === undefined ? [] : [{ role: "system", content: system }]),
    { role: "user", content: [...text(before), part, ...text(after)] },
  ];
}

/** The request without its secret, and without megabytes of base64 where `data` is "count". */
export function printableRequest(request: PromptEmbedsRequest, data: "whole" | "count"): object {
  const { authorization, ...headers } = request.headers;
  const shorten = (key: string, value: unknown) =>
    (key === "data" || key === "prompt_embeds") && typeof value === "string" && data === "count"
      ? `<${value.length} characters of base64>`
      : value;
  return {
    ...request,
    headers: { ...headers, ...(authorization === undefined ? {} : { authorization: "Bearer <key>" }) },
    body: JSON.parse(JSON.stringify(request.body, shorten)),
  };
}

/** What may go wrong at the server although the request is well-formed; for a word on stderr. */
export function requestWarnings(api: PromptEmbedsApi, options: PromptEmbedsRequestOptions): string[] {
  if (api !== "embedding") return [];
  const text = `${options.before ?? ""}${options.after ?? ""}`;
  const found = text.split(FORK_PLACEHOLDER).length - 1;
  return found === 1
    ? []
    : [
        `the fork puts the embeddings in place of one ${FORK_PLACEHOLDER} of the text; this text has ${found}`,
      ];
}
