// SPDX-License-Identifier: Apache-2.0
// Requests with embeddings, byte by byte as a server gets them, and servers that misbehave.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { encodePromptEmbeds, parseTorchEmbeddings } from "../../src/memory/embedding-files.ts";
import { sendPromptEmbeds } from "../../src/memory/send.ts";
import {
  type PromptEmbedsRequestOptions,
  printableRequest,
  promptEmbedsRequest,
  requestWarnings,
} from "../../src/memory/send-request.ts";

const prompt = { promptEmbeddings: Float32Array.of(1, -2.5, 0.125, 3, 4, 5), shape: [2, 3] as const };
const data = encodePromptEmbeds(prompt);

interface Seen {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}
let server: Server | undefined;
afterEach(async () => {
  server?.closeAllConnections();
  await new Promise((resolve) => (server ? server.close(resolve) : resolve(null)));
  server = undefined;
});

/** A server that keeps what it gets; `answer` decides by the number of the request. */
async function serve(
  answer: (response: ServerResponse, count: number, request: IncomingMessage) => void,
): Promise<{ url: string; seen: Seen[] }> {
  const seen: Seen[] = [];
  server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      const { method = "", url = "", headers } = request;
      seen.push({ method, url, headers, body: Buffer.concat(parts).toString("utf8") });
      answer(response, seen.length, request);
    });
    request.on("error", () => {});
    response.on("error", () => {});
  });
  await new Promise<void>((resolve) => server!.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, seen };
}

const completion = (
  response: ServerResponse,
  body: object = { choices: [{ text: "yes", finish_reason: "stop" }] },
) => response.setHeader("content-type", "application/json").end(JSON.stringify(body));
const request = (url: string, options: Partial<PromptEmbedsRequestOptions> = {}) =>
  promptEmbedsRequest(prompt, { url, model: "m", ...options });

describe("what the server gets", () => {
  const cases: [string, Partial<PromptEmbedsRequestOptions>, string, object][] = [
    [
      "completions",
      {},
      "/v1/completions",
      { model: "m", prompt: "", prompt_embeds: data, max_tokens: 512, temperature: 0 },
    ],
    [
      "completions with sampling and more keys",
      {
        maxTokens: 9,
        temperature: 0.5,
        topP: 0.9,
        presencePenalty: 2,
        seed: 3,
        stop: ["a"],
        extraBody: { top_k: 5 },
      },
      "/v1/completions",
      {
        ...{ model: "m", prompt: "", prompt_embeds: data, max_tokens: 9, temperature: 0.5, top_p: 0.9 },
        ...{ presence_penalty: 2, seed: 3, stop: ["a"], top_k: 5 },
      },
    ],
    [
      "vLLM's chat part",
      { api: "chat", before: "Read:", after: "Sum — ✓", system: "Be brief." },
      "/v1/chat/completions",
      {
        model: "m",
        messages: [
          { role: "system", content: "Be brief." },
          {
            role: "user",
            content: [
              { type: "text", text: "Read:" },
              { type: "prompt_embeds", data },
              { type: "text", text: "Sum — ✓" },
            ],
          },
        ],
        max_tokens: 512,
        temperature: 0,
      },
    ],
    [
      "the fork's part",
      { api: "embedding", before: "<|fim_pad|> What?" },
      "/v1/chat/completions",
      {
        model: "m",
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "<|fim_pad|> What?" },
              { type: "embedding", embedding: { data, encoding: "pt" } },
            ],
          },
        ],
        max_tokens: 512,
        temperature: 0,
      },
    ],
  ];

  test.each(cases)("%s: every byte", async (_name, options, path, body) => {
    const { url, seen } = await serve((response) => completion(response));
    const made = request(`${url}/`, { ...options, apiKey: "secret" });
    const answer = await sendPromptEmbeds(made);
    expect(answer).toMatchObject({ text: "yes", finishReason: "stop" });
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatchObject({ method: "POST", url: path, body: JSON.stringify(body) });
    expect(seen[0]!.headers).toMatchObject({
      "content-type": "application/json",
      authorization: "Bearer secret",
      "content-length": String(Buffer.byteLength(JSON.stringify(body))),
    });
    // The dry run shows the same body and not the key.
    const shown = printableRequest(made, "whole");
    expect(shown).toMatchObject({ method: "POST", url: `${url}${path.slice(3)}`, body });
    expect(JSON.stringify(shown)).not.toContain("secret");
  });

  test.each(["float32", "float16", "bfloat16"] as const)(
    "%s: the tensor comes out as it went in",
    async (dtype) => {
      const { url, seen } = await serve((response) => completion(response));
      await sendPromptEmbeds(request(url, { dtype }));
      const sent = JSON.parse(seen[0]!.body) as { prompt_embeds: string };
      expect(parseTorchEmbeddings(Buffer.from(sent.prompt_embeds, "base64"))).toEqual(prompt);
    },
  );

  test("a message of the assistant is an answer too", async () => {
    const { url } = await serve((response) =>
      completion(response, { choices: [{ message: { content: "hi" } }] }),
    );
    expect(await sendPromptEmbeds(request(url, { api: "chat" }))).toMatchObject({
      text: "hi",
      finishReason: null,
    });
  });

  test("without a key there is no header; a person sees a count in place of base64", () => {
    const made = request("http://h/v1", { api: "chat" });
    expect(made.headers).not.toHaveProperty("authorization");
    expect(JSON.stringify(printableRequest(made, "count"))).toContain(
      `<${data.length} characters of base64>`,
    );
  });

  test("what cannot be asked for is refused", () => {
    const refused = expect.objectContaining({ code: "ERR_ARGUMENT_TYPE" });
    expect(() => request("localhost:8000")).toThrowError(refused);
    expect(() => request("file:///etc/passwd")).toThrowError(refused);
    expect(() => request("http://h/v1", { api: "images" as never })).toThrowError(refused);
    expect(() => request("http://h/v1", { after: "x" })).toThrowError(/embeddings are the whole prompt/);
    expect(requestWarnings("embedding", { url: "", model: "", before: "no mark" })).toHaveLength(1);
    expect(requestWarnings("embedding", { url: "", model: "", after: "<|fim_pad|>" })).toEqual([]);
    expect(requestWarnings("chat", { url: "", model: "" })).toEqual([]);
  });
});

describe("servers that misbehave", () => {
  const quick = { waitMs: 1, timeoutMs: 5000 };

  test("500 is tried again, then said with its text", async () => {
    const { url, seen } = await serve((response) => response.writeHead(500).end("out of memory"));
    const sent = sendPromptEmbeds(request(url), { ...quick, tries: 3 });
    await expect(sent).rejects.toMatchObject({
      code: "ERR_ENDPOINT_STATUS",
      details: { status: 500 },
      message: expect.stringContaining("out of memory"),
    });
    expect(seen).toHaveLength(3);
    expect(new Set(seen.map((one) => one.body)).size).toBe(1);
  });

  test("503 and then an answer is an answer; Retry-After is kept", async () => {
    const { url, seen } = await serve((response, count) =>
      count === 1 ? response.writeHead(503, { "retry-after": "0" }).end() : completion(response),
    );
    expect((await sendPromptEmbeds(request(url), quick)).text).toBe("yes");
    expect(seen).toHaveLength(2);
  });

  test.each([400, 401, 404, 422])("%d is final", async (status) => {
    const { url, seen } = await serve((response) => response.writeHead(status).end("no"));
    await expect(sendPromptEmbeds(request(url), quick)).rejects.toMatchObject({
      code: "ERR_ENDPOINT_STATUS",
    });
    expect(seen).toHaveLength(1);
  });

  test("a redirection is not followed with the key", async () => {
    const { url, seen } = await serve((response) =>
      response.writeHead(307, { location: "/elsewhere" }).end(),
    );
    const sent = sendPromptEmbeds(request(url, { apiKey: "secret" }), quick);
    await expect(sent).rejects.toMatchObject({ code: "ERR_ENDPOINT_STATUS", details: { status: 307 } });
    expect(seen.map((one) => one.url)).toEqual(["/v1/completions"]);
  });

  test("a server that stalls before its answer is given up in time", async () => {
    const { url, seen } = await serve(() => {});
    const started = performance.now();
    const sent = sendPromptEmbeds(request(url), { waitMs: 1, timeoutMs: 200, tries: 2 });
    await expect(sent).rejects.toMatchObject({ code: "ERR_ENDPOINT_TIMEOUT", details: { timeoutMs: 200 } });
    expect(seen).toHaveLength(2);
    expect(performance.now() - started).toBeLessThan(3000);
  });

  test("a server that stalls in its answer too", async () => {
    const { url } = await serve((response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write('{"choices":');
    });
    const sent = sendPromptEmbeds(request(url), { waitMs: 1, timeoutMs: 200, tries: 1 });
    await expect(sent).rejects.toMatchObject({ code: "ERR_ENDPOINT_TIMEOUT", details: { status: 200 } });
  });

  test("half a body: the line is cut", async () => {
    const { url, seen } = await serve((response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write('{"choices":[{"te', () => response.destroy());
    });
    const sent = sendPromptEmbeds(request(url), { ...quick, tries: 2 });
    await expect(sent).rejects.toMatchObject({ code: "ERR_ENDPOINT_BROKEN" });
    expect(seen).toHaveLength(2);
  });

  test("half a body: the server thinks it is whole", async () => {
    const { url } = await serve((response) => response.end('{"choices":[{"te'));
    await expect(sendPromptEmbeds(request(url), { ...quick, tries: 1 })).rejects.toMatchObject({
      code: "ERR_ENDPOINT_ANSWER",
      message: expect.stringContaining("16 characters that are not whole JSON"),
    });
  });

  test("half a body, then a whole one", async () => {
    const { url } = await serve((response, count) =>
      count === 1 ? response.end('{"choi') : completion(response),
    );
    expect((await sendPromptEmbeds(request(url), quick)).text).toBe("yes");
  });

  test.each([
    ["an error in a 200", { error: { message: "no" } }],
    ["no choices", { choices: [] }],
    ["a list", []],
    ["text that is none", { choices: [{ text: 5 }] }],
  ])("%s is not an answer, and not asked for again", async (_name, body) => {
    const { url, seen } = await serve((response) => completion(response, body));
    await expect(sendPromptEmbeds(request(url), quick)).rejects.toMatchObject({
      code: "ERR_ENDPOINT_ANSWER",
    });
    expect(seen).toHaveLength(1);
  });

  test("nobody there", async () => {
    const { url } = await serve(() => {});
    await new Promise((resolve) => server!.close(resolve));
    const sent = sendPromptEmbeds(request(url), { ...quick, tries: 2 });
    await expect(sent).rejects.toMatchObject({ code: "ERR_SERVICE_UNREACHABLE", details: { attempt: 2 } });
  });

  test("the caller's signal ends it with its reason, waiting or asking", async () => {
    const reason = new Error("enough");
    const { url } = await serve(() => {});
    const asking = new AbortController();
    setTimeout(() => asking.abort(reason), 50);
    await expect(sendPromptEmbeds(request(url), { ...quick, signal: asking.signal })).rejects.toBe(reason);
    await new Promise((resolve) => server!.close(resolve) && server!.closeAllConnections());
    const waiting = new AbortController();
    setTimeout(() => waiting.abort(reason), 50);
    const sent = sendPromptEmbeds(request(url), { waitMs: 60_000, signal: waiting.signal });
    await expect(sent).rejects.toBe(reason);
  });
});
