// SPDX-License-Identifier: Apache-2.0
// RULER prompts answered by an OpenAI-compatible server. Servers stall, refuse, break off half-way: each try has
// a time limit, waits grow with jitter, a Retry-After holds everybody back, and what cannot be helped is said.

import { isTransient, pause, waitBefore } from "../../data/sources/retry.ts";
import { misuse, ServiceError } from "../../errors.ts";
import type { Generator, RulerPrompt } from "../run.ts";

export interface EndpointOptions {
  /** Base address, with /v1: `http://localhost:8000/v1`. */
  readonly url: string;
  readonly model: string;
  /** `completions` sends the whole prompt, `chat` sends it as one user message. Default completions. */
  readonly api?: "completions" | "chat";
  readonly apiKey?: string;
  /** Requests at once. Default 4. */
  readonly concurrency?: number;
  /** Tries of one prompt. Default 6. */
  readonly tries?: number;
  /** First wait, doubled each time. Default 500 ms, at most 30 s. */
  readonly waitMs?: number;
  readonly maxWaitMs?: number;
  /** Time limit of one try, answer read to its end. Default 10 minutes. */
  readonly timeoutMs?: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  /** More keys of the request body, for example this package's `steering`. */
  readonly extraBody?: Readonly<Record<string, unknown>>;
}

/** @throws TypeError or RangeError ERR_RULER_OPTION where the address is none or a number makes no sense */
export function endpointGenerator(options: EndpointOptions): Generator {
  const { api = "completions", concurrency = 4, model, url, extraBody = {}, stop } = options;
  if (!/^https?:\/\//.test(url) || !URL.canParse(url))
    throw misuse(
      TypeError,
      "ERR_RULER_OPTION",
      "endpoint",
      "an http address such as http://localhost:8000/v1",
      url,
    );
  for (const [name, value] of Object.entries({ concurrency, tries: options.tries ?? 1 }))
    if (!Number.isInteger(value) || value < 1)
      throw misuse(RangeError, "ERR_RULER_OPTION", name, "a whole number from 1", value);
  const { timeoutMs = 1 } = options;
  if (!(timeoutMs > 0 && timeoutMs <= 0x7fffffff))
    throw misuse(RangeError, "ERR_RULER_OPTION", "timeout", "milliseconds from 1 to 2^31 - 1", timeoutMs);
  const sampling = {
    temperature: options.temperature ?? 0,
    top_p: options.topP ?? 1,
    seed: options.seed ?? 0,
    ...(stop && stop.length > 0 ? { stop } : {}),
  };
  const address = `${url.replace(/\/+$/, "")}/${api === "chat" ? "chat/completions" : "completions"}`;
  const asker = new Asker(address, options);
  return {
    identity: { kind: "endpoint", model, api, ...sampling, ...extraBody },
    batch: 1,
    concurrency,
    generate: (prompts, { maxTokens, signal }) =>
      Promise.all(
        prompts.map((prompt) => {
          const asked = api === "chat" ? { messages: [userMessage(prompt)] } : { prompt: prompt.text };
          return asker.ask({ model, ...asked, max_tokens: maxTokens, ...sampling, ...extraBody }, signal);
        }),
      ),
  };
}

function userMessage(prompt: RulerPrompt): object {
  return { role: "user", content: prompt.text };
}

/** Why a try failed, in words, and whether another may help. */
interface Fault {
  readonly what: string;
  readonly status?: number;
  readonly retryAfter?: string | null;
  readonly final?: boolean;
  readonly cause?: unknown;
}

class Asker {
  readonly #url: string;
  readonly #options: EndpointOptions;
  /** No request goes out before this time: a server that says when to come back is believed by all. */
  #notBefore = 0;

  constructor(url: string, options: EndpointOptions) {
    this.#url = url;
    this.#options = options;
  }

  async ask(body: object, signal: AbortSignal): Promise<string> {
    const { tries = 6, waitMs = 500, maxWaitMs = 30_000 } = this.#options;
    for (let attempt = 1; ; attempt++) {
      const hold = this.#notBefore - Date.now();
      if (hold > 0) await pause(hold, signal);
      const result = await this.#once(JSON.stringify(body), signal);
      if (typeof result === "string") return result;
      if (result.final || attempt >= tries) throw this.#failure(result, attempt);
      const wait = waitBefore(attempt, { tries, waitMs, maxWaitMs }, result.retryAfter ?? null);
      if (result.retryAfter) this.#notBefore = Math.max(this.#notBefore, Date.now() + wait);
      await pause(wait, signal);
    }
  }

  async #once(body: string, outer: AbortSignal): Promise<string | Fault> {
    const { timeoutMs = 600_000, apiKey } = this.#options;
    const limit = AbortSignal.timeout(timeoutMs);
    try {
      const response = await fetch(this.#url, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          ...(apiKey ? { authorization: `Bearer ${apiKey}` } : {}),
        },
        body,
        signal: AbortSignal.any([outer, limit]),
      });
      const text = await response.text();
      if (response.ok) return answerText(text);
      return {
        what: `answered ${response.status}: ${text.slice(0, 300)}`,
        status: response.status,
        retryAfter: response.headers.get("retry-after"),
        final: !isTransient(response.status),
      };
    } catch (cause) {
      outer.throwIfAborted();
      if (limit.aborted) return { what: `gave no whole answer within ${timeoutMs} ms`, cause };
      const inner = (cause as { cause?: { message?: string; code?: string } }).cause;
      return { what: `broke off: ${inner?.code ?? inner?.message ?? (cause as Error).message}`, cause };
    }
  }

  #failure({ what, status, final, cause }: Fault, tries: number): ServiceError {
    const details = { url: this.#url, tries, status, fault: what };
    if (final)
      return new ServiceError("ERR_RULER_ENDPOINT_REFUSED", `${this.#url} ${what}`, {
        details,
        remedies: ["check --model, --api and the key", "look at the server's own log"],
        cause,
      });
    return new ServiceError("ERR_RULER_ENDPOINT", `${this.#url} ${what} (${tries} tries)`, {
      details,
      remedies: [
        "go on with --resume when the server is well: every answer so far is kept",
        "raise --timeout or --tries, or lower --concurrency",
      ],
      cause,
    });
  }
}

function answerText(body: string): string | Fault {
  let answer: { choices?: Array<{ text?: unknown; message?: { content?: unknown } }> };
  try {
    answer = JSON.parse(body);
  } catch (cause) {
    return { what: `sent ${body.length} characters that are not whole JSON`, cause };
  }
  const choice = answer?.choices?.[0];
  const text = choice?.text ?? choice?.message?.content;
  if (typeof text === "string") return text;
  // A model that only called a tool or only thought says nothing.
  if (choice?.message?.content === null) return "";
  return { what: `sent no choices[0].text or .message.content: ${body.slice(0, 200)}`, final: true };
}
