// SPDX-License-Identifier: Apache-2.0
// Embeddings from an OpenAI-compatible server: POST {base}/embeddings, retried where the server is busy,
// checked for number, order and length of what comes back.

import {
  DEFAULT_RETRY,
  isTransient,
  pause,
  type RetryOptions,
  unreachable,
  waitBefore,
} from "../../data/sources/retry.ts";
import { ServiceError } from "../../errors.ts";
import type { ResolvedConfig } from "../config.ts";
import type { EncodeRequest, EncodeResult, Encoder, ModelSpec } from "./encoder.ts";
import { normalizeRow } from "./pooling.ts";

export interface EndpointOptions {
  /** Base URL, for example "http://127.0.0.1:8080/v1". */
  endpoint: string;
  model: string;
  apiKey: string | null;
  /** Rows of one request; default 128. */
  batchSize?: number;
  /** Requests under way at once; default 4. */
  concurrency?: number;
  retry?: Partial<RetryOptions>;
}

interface Answer {
  data?: { index?: number; embedding?: number[] | string }[];
  usage?: { prompt_tokens?: number; total_tokens?: number };
}

/** Vectors of the texts, in order, and the tokens the server counted. One request. */
export async function requestEmbeddings(
  texts: readonly string[],
  options: EndpointOptions,
  signal?: AbortSignal,
): Promise<{ vectors: Float32Array[]; tokens: number }> {
  const retry = { ...DEFAULT_RETRY, ...options.retry };
  const url = `${options.endpoint.replace(/\/+$/, "")}/embeddings`;
  const body = JSON.stringify({ model: options.model, input: texts, encoding_format: "float" });
  for (let attempt = 1; ; attempt++) {
    let response: Response;
    let text: string;
    try {
      response = await fetch(url, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          ...(options.apiKey === null ? {} : { authorization: `Bearer ${options.apiKey}` }),
        },
        body,
        ...(signal ? { signal } : {}),
      });
      text = await response.text();
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (attempt >= retry.tries) throw unreachable(url, attempt, error);
      await pause(waitBefore(attempt, retry, null), signal);
      continue;
    }
    if (response.ok) return parseAnswer(text, texts.length, url);
    if (isTransient(response.status) && attempt < retry.tries) {
      await pause(waitBefore(attempt, retry, response.headers.get("retry-after")), signal);
      continue;
    }
    throw new ServiceError(
      "ERR_ENDPOINT_STATUS",
      `${url} answered ${response.status}: ${text.slice(0, 300)}`,
      {
        details: { url, status: response.status },
        remedies:
          response.status === 401 || response.status === 403
            ? ["set OPENAI_API_KEY"]
            : ["check --model and the endpoint", "rerun: what was embedded is kept"],
      },
    );
  }
}

function parseAnswer(text: string, count: number, url: string): { vectors: Float32Array[]; tokens: number } {
  let answer: Answer;
  try {
    answer = JSON.parse(text) as Answer;
  } catch (error) {
    throw badAnswer(url, "is not JSON", error);
  }
  const data = answer.data;
  if (!Array.isArray(data) || data.length !== count)
    throw badAnswer(url, `holds ${data?.length ?? "no"} vectors for ${count} texts`);
  const vectors = new Array<Float32Array | undefined>(count).fill(undefined);
  data.forEach((item, i) => {
    const index = item.index ?? i;
    const { embedding } = item;
    if (index < 0 || index >= count || vectors[index] !== undefined)
      throw badAnswer(url, `names index ${index} out of order or twice`);
    if (typeof embedding === "string") {
      const bytes = Buffer.from(embedding, "base64");
      vectors[index] = new Float32Array(new Uint8Array(bytes).buffer);
    } else if (Array.isArray(embedding)) vectors[index] = Float32Array.from(embedding);
    else throw badAnswer(url, `has no vector at index ${index}`);
  });
  const all = vectors as Float32Array[];
  const dim = all[0]?.length ?? 0;
  if (dim === 0 || all.some((vector) => vector.length !== dim))
    throw badAnswer(url, "holds vectors of different lengths");
  return { vectors: all, tokens: answer.usage?.prompt_tokens ?? answer.usage?.total_tokens ?? 0 };
}

function badAnswer(url: string, why: string, cause?: unknown): ServiceError {
  return new ServiceError("ERR_ENDPOINT_ANSWER", `The answer of ${url} ${why}`, {
    details: { url },
    remedies: ["check that the endpoint speaks the OpenAI embeddings API"],
    cause,
  });
}

/** A spec for a remote model: its name is all that identifies it. */
export function endpointModelSpec(config: ResolvedConfig): ModelSpec {
  return {
    kind: "endpoint",
    name: config.modelName ?? config.model,
    path: config.endpoint ?? "",
    tokenizer: null,
    tokenizerConfig: null,
    pooling: "model",
    poolingSource: "endpoint",
    normalize: config.normalize ?? false,
    normalizeSource: config.normalize === null ? "default" : "option",
    maxTokens: config.bucketMaxTokens,
    padId: 0,
    identity: { endpoint: config.endpoint ?? "", model: config.model },
    site: null,
    steering: null,
  };
}

/** The encoder of `embed-hf --endpoint`. */
export function openEndpointEncoder(spec: ModelSpec, options: EndpointOptions & { prefix: string }): Encoder {
  const batchSize = options.batchSize ?? 128;
  const concurrency = options.concurrency ?? 4;
  const encode = async ({ texts, rows }: EncodeRequest): Promise<EncodeResult> => {
    const all = (texts ?? []).map((text) => options.prefix + text);
    const starts: number[] = [];
    for (let start = 0; start < all.length; start += batchSize) starts.push(start);
    const vectors = new Array<Float32Array>(all.length);
    let tokens = 0;
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < starts.length) {
        const start = starts[next++] as number;
        const answer = await requestEmbeddings(all.slice(start, start + batchSize), options);
        tokens += answer.tokens;
        answer.vectors.forEach((vector, i) => {
          vectors[start + i] = vector;
        });
      }
    };
    await Promise.all(Array.from({ length: concurrency }, lane));
    const dim = vectors[0]?.length ?? 0;
    const embeddings = new Float32Array(rows * dim);
    vectors.forEach((vector, row) => {
      if (vector.length !== dim) throw badAnswer(spec.path, "changed the length of its vectors");
      embeddings.set(vector, row * dim);
      if (spec.normalize) normalizeRow(embeddings, row * dim, dim);
    });
    return { embeddings, dim, tokens, paddedTokens: tokens, batches: starts.length };
  };
  return { wantsText: true, encode, warmUp: async () => ({}), close: async () => undefined };
}
