// SPDX-License-Identifier: Apache-2.0
// Fetching data from a local server in the place of the public ones: checked, resumed, kept.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32, deflateRawSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ESSAY_FILES } from "../../src/ruler/data/essay-list.ts";
import { englishWords, fetchData } from "../../src/ruler/data/fetch.ts";

let folder: string;
let server: Server;
let base: string;
let asked: string[];
let answer: (path: string, range: string | undefined, response: ServerResponse) => void;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ruler-fetch-"));
  asked = [];
  server = createServer((request, response) => {
    asked.push(`${request.url} ${request.headers.range ?? ""}`.trim());
    answer(request.url!, request.headers.range, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as { port: number }).port}/`;
});
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true, force: true });
});

const retry = { tries: 3, waitMs: 5, maxWaitMs: 10 };
const squad = '{"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}';

function zipOf(text: string): Buffer {
  const body = deflateRawSync(text);
  const head = Buffer.alloc(30);
  head.writeUInt32LE(0x04034b50, 0);
  head.writeUInt16LE(8, 8);
  // crc32 is not in every Node 20; the reader does not need it.
  if (typeof crc32 === "function") head.writeUInt32LE(crc32(text), 14);
  head.writeUInt32LE(body.length, 18);
  head.writeUInt32LE(text.length, 22);
  head.writeUInt16LE(8, 26);
  return Buffer.concat([head, Buffer.from("dict.txt"), body]);
}

describe("fetching RULER's data", () => {
  it("joins the essays in order and keeps them", async () => {
    answer = (path, _, response) => response.end(`text of ${path.slice(1)}.\n`);
    const fetch = () => fetchData({ output: folder, only: ["essays"], urls: { essays: [base] }, retry });
    const [part] = await fetch();
    const { text } = JSON.parse(await readFile(part!.file, "utf8")) as { text: string };
    expect(text).toBe(ESSAY_FILES.map((name) => `text of ${name}.txt.\n`).join(""));
    expect(part).toMatchObject({ state: "fetched", part: "essays" });
    expect(asked).toHaveLength(ESSAY_FILES.length);
    expect((await fetch())[0]).toMatchObject({ state: "kept" });
    expect(asked).toHaveLength(ESSAY_FILES.length);
  });

  it("goes on where the line was cut, and past a busy answer", async () => {
    answer = (_, range, response) => {
      if (asked.length === 1) {
        response.writeHead(200, { "content-length": squad.length });
        response.write(squad.slice(0, 20));
        setTimeout(() => response.destroy(), 20);
      } else if (asked.length === 2) response.writeHead(503, { "retry-after": "0" }).end();
      else response.writeHead(206).end(squad.slice(Number(/bytes=(\d+)-/.exec(range!)![1])));
    };
    const [part] = await fetchData({
      output: folder,
      only: ["squad"],
      urls: { squad: [`${base}s.json`] },
      retry,
    });
    expect(await readFile(part!.file, "utf8")).toBe(squad);
    expect(asked).toEqual(["/s.json", "/s.json bytes=20-", "/s.json bytes=20-"]);
  });

  it("takes the next address where one fails, and names all where all do", async () => {
    answer = (path, _, response) => {
      if (path === "/good") response.end(squad);
      else response.writeHead(404).end();
    };
    const urls = { squad: [`${base}bad`, `${base}good`] };
    expect(await fetchData({ output: folder, only: ["squad"], urls, retry })).toHaveLength(1);
    const none = { hotpotqa: [`${base}bad`, `${base}worse`] };
    await expect(fetchData({ output: folder, only: ["hotpotqa"], urls: none, retry })).rejects.toMatchObject({
      name: "ServiceError",
      code: "ERR_RULER_FETCH",
      details: { urls: none.hotpotqa },
    });
  });

  it("refuses what is not the file it should be", async () => {
    answer = (_, __, response) => response.end("<html>not here any more</html>");
    const urls = { squad: [base], english_words: [base] };
    const fetch = (part: string) => fetchData({ output: folder, only: [part], urls, retry });
    await expect(fetch("squad")).rejects.toMatchObject({ code: "ERR_RULER_CHECKSUM" });
    await expect(fetch("english_words")).rejects.toMatchObject({ code: "ERR_RULER_CHECKSUM" });
    await expect(fetch("novels")).rejects.toMatchObject({ code: "ERR_RULER_OPTION" });
  });

  it("fetches again what lies there but is not the known file", async () => {
    await writeFile(join(folder, "squad.json"), squad);
    const fetched: string[] = [];
    const fetch = async (url: string | URL | Request) => {
      fetched.push(String(url));
      return new Response(squad);
    };
    await expect(
      fetchData({
        output: folder,
        only: ["squad"],
        retry: { ...retry, fetch: fetch as typeof globalThis.fetch },
      }),
    ).rejects.toMatchObject({ code: "ERR_RULER_CHECKSUM" });
    expect(fetched).toHaveLength(1);
  });

  it("numbers the words of the dictionary as upstream's file does", () => {
    const zip = zipOf('{"a": 1, "acceleratorh": 1, "coevolvedcoevolves": 1, "zebra": 1}');
    expect(Buffer.from(englishWords(zip)).toString()).toBe(
      '{"0": "a", "1": "coevolved", "2": "coevolves", "3": "zebra"}',
    );
  });
});
