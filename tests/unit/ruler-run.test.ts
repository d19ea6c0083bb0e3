// SPDX-License-Identifier: Apache-2.0
// Runs against a server that misbehaves: what was answered is kept, what was not is asked again, and what cannot
// be helped has a name.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type EndpointOptions, endpointGenerator } from "../../src/ruler/generators/endpoint.ts";
import { prepareTasks } from "../../src/ruler/prepare.ts";
import { type Generator, runTasks } from "../../src/ruler/run.ts";
import { scoreFolder } from "../../src/ruler/score.ts";

type Answer = (request: { body: Record<string, unknown>; n: number }, response: ServerResponse) => void;

let folder: string;
let server: Server | undefined;
let asked: Array<Record<string, unknown>>;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ruler-run-"));
  asked = [];
  await prepareTasks({
    ...{ task: "niah_single_1", tokenizer: "cl100k_base", length: 512, samples: 6 },
    output: join(folder, "data"),
  });
});

afterEach(async () => {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
  await rm(folder, { recursive: true, force: true });
});

/** A server that answers request n (from 0) as told; its address with /v1. */
async function serve(answer: Answer): Promise<string> {
  server = createServer(async (request: IncomingMessage, response) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    const body = JSON.parse(text) as Record<string, unknown>;
    asked.push(body);
    answer({ body, n: asked.length - 1 }, response);
  });
  await new Promise<void>((resolve) => server!.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as { port: number }).port}/v1`;
}

/** Reads the magic number out of the prompt and says it. */
function good(body: Record<string, unknown>): string {
  const text = String(body.prompt ?? (body.messages as Array<{ content: string }>)[0]!.content);
  const said = / is: (\d{7})\./.exec(text)![1];
  return JSON.stringify({ choices: [{ text: ` ${said}.`, message: { content: said } }] });
}

function json(response: ServerResponse, text: string): void {
  response.writeHead(200, { "content-type": "application/json" }).end(text);
}

const quick = { model: "m", waitMs: 5, maxWaitMs: 20, tries: 4, timeoutMs: 400, concurrency: 2 };
const ask = (url: string, more: Partial<EndpointOptions> = {}) =>
  endpointGenerator({ ...quick, url, ...more });
const run = (generator: Generator, more: object = {}) =>
  runTasks({ data: join(folder, "data"), output: join(folder, "out"), generator, ...more });

describe("a server that answers", () => {
  for (const api of ["completions", "chat"] as const)
    it(`is asked by ${api} and scored`, async () => {
      const url = await serve(({ body }, response) => json(response, good(body)));
      const finished = await run(ask(url, { api, apiKey: "k", extraBody: { steering: [1] } }));
      expect(finished).toMatchObject([{ task: "niah_single_1", rows: 6, resumed: 0 }]);
      expect(asked[0]).toMatchObject({ model: "m", max_tokens: 128, temperature: 0, seed: 0, steering: [1] });
      const [score] = await scoreFolder(join(folder, "out"), { data: join(folder, "data") });
      expect(score).toMatchObject({ task: "niah_single_1", score: 100, nulls: "0/6" });
    });
});

describe("a server that misbehaves", () => {
  const faults: Record<string, Answer> = {
    "500s": (_, response) => response.writeHead(500).end("no"),
    "half a body": (_, response) => {
      response.writeHead(200, { "content-length": "1000" });
      response.write('{"choices": [{"te');
      setTimeout(() => response.destroy(), 5);
    },
    "a whole body of half a JSON": (_, response) => json(response, '{"choices": [{"te'),
    "a stall": () => {},
    "a cut connection": (_, response) => response.destroy(),
  };
  for (const [name, fault] of Object.entries(faults)) {
    it(`gets over ${name} that passes`, async () => {
      const url = await serve((request, response) =>
        request.n % 3 === 0 ? fault(request, response) : json(response, good(request.body)),
      );
      await run(ask(url));
      expect((await scoreFolder(join(folder, "out")))[0]!.score).toBe(100);
    });

    it(`ends with a code on ${name} that stays, and goes on later`, async () => {
      let well = false;
      const url = await serve((request, response) =>
        well || request.n < 3 ? json(response, good(request.body)) : fault(request, response),
      );
      await expect(run(ask(url, { timeoutMs: 150 }))).rejects.toMatchObject({
        name: "ServiceError",
        code: "ERR_RULER_ENDPOINT",
        details: { tries: 4 },
      });
      const kept = (await readFile(join(folder, "out/.journal/niah_single_1.jsonl"), "utf8"))
        .trim()
        .split("\n");
      expect(kept.length).toBe(1 + 3);
      await expect(run(ask(url))).rejects.toMatchObject({ code: "ERR_RULER_OUTPUT_EXISTS" });
      well = true;
      const before = asked.length;
      const finished = await run(ask(url), { resume: true });
      expect(finished).toMatchObject([{ rows: 6, resumed: 3 }]);
      expect(asked.length - before).toBe(3);
      expect((await scoreFolder(join(folder, "out")))[0]!.score).toBe(100);
    });
  }

  it("waits as long as Retry-After says, all workers together", async () => {
    let first = 0;
    const arrivals: number[] = [];
    const url = await serve(({ body, n }, response) => {
      arrivals.push(Date.now());
      if (n === 0) {
        first = Date.now();
        response.writeHead(429, { "retry-after": "1" }).end("slow down");
      } else json(response, good(body));
    });
    await run(ask(url, { concurrency: 1 }));
    expect(arrivals[1]! - first).toBeGreaterThanOrEqual(950);
  });

  it("does not ask twice where the server refuses", async () => {
    const url = await serve((_, response) => response.writeHead(401).end('{"error":"no key"}'));
    await expect(run(ask(url, { concurrency: 1 }))).rejects.toMatchObject({
      code: "ERR_RULER_ENDPOINT_REFUSED",
      details: { status: 401, tries: 1 },
    });
    expect(asked.length).toBe(1);
  });

  it("is not asked where the options make no sense", () => {
    const bad = (more: Partial<EndpointOptions>) =>
      expect(() => ask("http://127.0.0.1:9/v1", more)).toThrow(
        expect.objectContaining({ code: "ERR_RULER_OPTION" }),
      );
    bad({ url: "localhost:8000" });
    bad({ concurrency: 0 });
    bad({ tries: 1.5 });
    bad({ timeoutMs: -1 });
  });

  it("ends with the signal's reason, answers kept", async () => {
    const stop = new AbortController();
    const url = await serve(({ body, n }, response) => {
      if (n < 2) json(response, good(body));
      else stop.abort(new Error("enough"));
    });
    await expect(run(ask(url, { concurrency: 1 }), { signal: stop.signal })).rejects.toThrow("enough");
    const kept = (await readFile(join(folder, "out/.journal/niah_single_1.jsonl"), "utf8"))
      .trim()
      .split("\n");
    expect(kept.length).toBe(1 + 2);
  });
});

describe("going on with a run", () => {
  const echo = (identity: object): Generator => ({
    identity: identity as Record<string, unknown>,
    batch: 4,
    concurrency: 1,
    generate: async (prompts) => prompts.map(() => "nothing"),
  });

  it("is refused with other settings", async () => {
    await run(echo({ model: "a" }));
    await expect(run(echo({ model: "b" }), { resume: true })).rejects.toMatchObject({
      code: "ERR_RULER_RESUME",
      details: { differing: ["generator"] },
    });
    await expect(run(echo({ model: "b" }), { overwrite: true })).resolves.toHaveLength(1);
  });

  it("asks again for rows a foreign prediction file lacks or holds broken", async () => {
    await run(echo({ model: "a" }));
    const file = join(folder, "out/niah_single_1.jsonl");
    const lines = (await readFile(file, "utf8")).split("\n");
    lines[1] = lines[1]!.slice(0, 50);
    lines.splice(3, 1);
    await writeFile(file, lines.join("\n"));
    await rm(join(folder, "out/.journal"), { recursive: true });
    const finished = await run(echo({ model: "a" }), { resume: true });
    expect(finished).toMatchObject([{ rows: 6, resumed: 4 }]);
    await expect(scoreFolder(join(folder, "out"), { data: join(folder, "data") })).resolves.toHaveLength(1);
  });

  it("goes on again from a journal with no answer yet, and from one made of a prediction file", async () => {
    const broken: Generator = {
      ...echo({ model: "a" }),
      generate: async () => {
        throw new Error("not today");
      },
    };
    await expect(run(broken)).rejects.toThrow("not today");
    await expect(run(broken, { resume: true })).rejects.toThrow("not today");
    expect(await run(echo({ model: "a" }), { resume: true })).toMatchObject([{ rows: 6, resumed: 0 }]);
    await rm(join(folder, "out/.journal"), { recursive: true });
    expect(await run(echo({ model: "a" }), { resume: true })).toMatchObject([{ resumed: 6 }]);
    expect(await run(echo({ model: "a" }), { resume: true })).toMatchObject([{ resumed: 6 }]);
  });

  it("says which data is not there", async () => {
    await expect(run(echo({}), { task: "vt" })).rejects.toMatchObject({ code: "ERR_RULER_NO_DATA" });
    await expect(run(echo({}), { task: "v" })).rejects.toMatchObject({ code: "ERR_RULER_TASK" });
  });

  it("refuses a generator that gives too few texts", async () => {
    const short: Generator = { ...echo({}), generate: async () => ["one"] };
    await expect(run(short)).rejects.toMatchObject({ code: "ERR_RULER_GENERATOR" });
  });
});
