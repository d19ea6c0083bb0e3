// SPDX-License-Identifier: Apache-2.0
// Sends a request with prompt embeddings and reads the answer. Servers stall, fail and break off half-way:
// each try has a time limit, waits grow, and what cannot be helped is said with a code.

import { DEFAULT_RETRY, isTransient, pause, waitBefore } from "../data/sources/retry.ts";
import { ServiceError } from "../errors.ts";
import type { PromptEmbedsRequest } from "./send-request.ts";

export interface SendOptions {
  /** Tries in all. Default 3. */
  readonly tries?: number;
  /** Time limit of one try, answer read to its end. Default 300 s, the most that fetch itself waits. */
  readonly timeoutMs?: number;
  /** First wait between tries, doubled each time. Default 500 ms. */
  readonly waitMs?: number;
  readonly signal?: AbortSignal;
}

export interface PromptEmbedsAnswer {
  /** The completion, or the message of the assistant. */
  readonly text: string;
  readonly finishReason: string | null;
  /** The answer as it came. */
  readonly body: unknown;
}

/** Why a try failed; `final` where another cannot help. */
interface Fault {
  readonly error: ServiceError;
  readonly final: boolean;
  readonly retryAfter: string | null;
}

const DEFAULT_TIMEOUT = 300_000;

/**
 * @throws ServiceError ERR_ENDPOINT_STATUS (the server refused or failed), ERR_ENDPOINT_TIMEOUT (no whole
 *   answer in time), ERR_ENDPOINT_BROKEN (the answer ended early), ERR_ENDPOINT_ANSWER (not a completion),
 *   ERR_SERVICE_UNREACHABLE; signal.reason
 */
export async function sendPromptEmbeds(
  request: PromptEmbedsRequest,
  options: SendOptions = {},
): Promise<PromptEmbedsAnswer> {
  const { tries = 3, timeoutMs = DEFAULT_TIMEOUT, waitMs = DEFAULT_RETRY.waitMs, signal } = options;
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted();
    const result = await once(request, timeoutMs, attempt, signal);
    if (!("error" in result)) return result;
    if (result.final || attempt >= tries) throw result.error;
    await pause(waitBefore(attempt, { ...DEFAULT_RETRY, tries, waitMs }, result.retryAfter), signal);
  }
}

async function once(
  request: PromptEmbedsRequest,
  timeoutMs: number,
  attempt: number,
  outer: AbortSignal | undefined,
): Promise<PromptEmbedsAnswer | Fault> {
  const { method, url, headers, body } = request;
  const limit = AbortSignal.timeout(timeoutMs);
  let response: Response | undefined;
  try {
    response = await fetch(url, {
      method,
      headers,
      body: JSON.stringify(body),
      // A key must not follow a redirection to another host.
      redirect: "manual",
      signal: outer ? AbortSignal.any([outer, limit]) : limit,
    });
    const text = await response.text();
    return response.ok ? answerOf(url, text) : refused(url, response, text);
  } catch (cause) {
    if (outer?.aborted) throw outer.reason;
    return lost(url, cause, { response, timeoutMs, attempt, late: limit.aborted });
  }
}

function lost(
  url: string,
  cause: unknown,
  at: { response: Response | undefined; timeoutMs: number; attempt: number; late: boolean },
): Fault {
  const { response, timeoutMs, attempt, late } = at;
  const inner = (cause as { cause?: { code?: string; message?: string } }).cause;
  const remedies = ["look at the server's own log", "raise --timeout or --tries"];
  if (late || /TIMEOUT/.test(inner?.code ?? ""))
    return fault(
      new ServiceError("ERR_ENDPOINT_TIMEOUT", `${url} gave no whole answer within ${timeoutMs} ms`, {
        details: { url, timeoutMs, attempt, status: response?.status ?? null },
        remedies,
        cause,
      }),
    );
  if (response)
    return fault(
      new ServiceError(
        "ERR_ENDPOINT_BROKEN",
        `${url} broke off in the middle of its answer: ${inner?.message ?? (cause as Error).message}`,
        { details: { url, attempt, status: response.status }, remedies, cause },
      ),
    );
  const why = inner?.message || inner?.code || (cause as Error).message;
  return fault(
    new ServiceError("ERR_SERVICE_UNREACHABLE", `${url} did not answer in ${attempt} tries: ${why}`, {
      details: { url, attempt },
      remedies: ["check the address and the network"],
      cause,
    }),
  );
}

function refused(url: string, response: Response, text: string): Fault {
  const { status } = response;
  const remedies =
    status === 401 || status === 403
      ? ["set the variable with the server's key (--api-key-env)"]
      : status === 400 || status === 404 || status === 422
        ? [
            "check --model and --api",
            "start vLLM with --enable-prompt-embeds; its chat form needs a release that has it",
          ]
        : ["look at the server's own log"];
  const error = new ServiceError("ERR_ENDPOINT_STATUS", `${url} answered ${status}: ${text.slice(0, 300)}`, {
    details: { url, status },
    remedies,
  });
  return { error, final: !isTransient(status), retryAfter: response.headers.get("retry-after") };
}

function answerOf(url: string, text: string): PromptEmbedsAnswer | Fault {
  let body: { choices?: { text?: unknown; message?: { content?: unknown }; finish_reason?: unknown }[] };
  try {
    body = JSON.parse(text);
  } catch (cause) {
    return unfit(url, `${text.length} characters that are not whole JSON`, false, cause);
  }
  const choice = body?.choices?.[0];
  const answer = choice?.text ?? choice?.message?.content;
  if (typeof answer !== "string")
    return unfit(url, `no choices[0].text or .message.content: ${text.slice(0, 200)}`, true);
  const reason = choice?.finish_reason;
  return { text: answer, finishReason: typeof reason === "string" ? reason : null, body };
}

function unfit(url: string, what: string, final: boolean, cause?: unknown): Fault {
  const error = new ServiceError("ERR_ENDPOINT_ANSWER", `The answer of ${url} holds ${what}`, {
    details: { url },
    remedies: ["check that the address ends in /v1 and the server speaks the OpenAI API"],
    cause,
  });
  return { error, final, retryAfter: null };
}

function fault(error: ServiceError): Fault {
  return { error, final: false, retryAfter: null };
}
