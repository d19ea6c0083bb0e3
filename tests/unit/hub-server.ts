// SPDX-License-Identifier: Apache-2.0
// A model hub on this machine, for tests: speaks the API as the real one does, from files in memory, and
// misbehaves where it is told to.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Asked {
  method: string;
  path: string;
  range: string | undefined;
  authorization: string | undefined;
  /** Which of the two origins was asked. */
  origin: "hub" | "store";
}

/** Answers in place of the hub when it returns true. */
export type Misbehaviour = (asked: Asked, response: ServerResponse, count: number) => boolean;

export interface HubFixture {
  endpoint: string;
  asked: Asked[];
  misbehave: Misbehaviour | null;
  /** Files by path, and the commit they are of; may be changed while it runs. */
  repositories: Map<string, { commit: string; files: Map<string, Buffer>; private?: boolean }>;
  close(): void;
}

export const TOKEN = "hf_secret";
const LARGE = /\.(safetensors|gguf|bin)$/;

export const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
export const gitBlob = (bytes: Buffer) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** Large files are served by a second origin behind a redirect, as the real hub does. */
export async function startHub(): Promise<HubFixture> {
  const store = await listen((request, response) => answer("store", request, response));
  const hub = await listen((request, response) => answer("hub", request, response));
  const fixture: HubFixture = {
    endpoint: address(hub),
    asked: [],
    misbehave: null,
    repositories: new Map(),
    close() {
      for (const server of [hub, store]) {
        server.closeAllConnections();
        server.close();
      }
    },
  };
  return fixture;

  function answer(origin: Asked["origin"], request: IncomingMessage, response: ServerResponse): void {
    const asked: Asked = {
      method: request.method ?? "",
      path: request.url ?? "",
      range: request.headers.range,
      authorization: request.headers.authorization,
      origin,
    };
    fixture.asked.push(asked);
    const count = fixture.asked.filter(
      ({ path, method }) => path === asked.path && method === asked.method,
    ).length;
    if (fixture.misbehave?.(asked, response, count)) return;
    if (origin === "store") {
      serve(find(asked.path.slice(1)), asked, response);
      return;
    }
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(asked.path);
    const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(asked.path);
    const repository = fixture.repositories.get((api ?? file)?.[1] ?? "");
    if (!repository) {
      end(response, 401, { "x-error-code": "RepoNotFound" });
      return;
    }
    if (repository.private && asked.authorization !== `Bearer ${TOKEN}`) {
      end(response, 403, { "x-error-code": "GatedRepo" });
      return;
    }
    const { commit, files } = repository;
    if (api) {
      if (!["main", commit].includes(api[2]!)) {
        end(response, 404, { "x-error-code": "RevisionNotFound" });
        return;
      }
      const siblings = [...files.keys()].map((rfilename) => ({ rfilename }));
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ id: api[1], sha: commit, siblings, cardData: { license: "mit" } }));
      return;
    }
    const path = decodeURIComponent(file![3]!);
    const bytes = ["main", commit].includes(file![2]!) ? files.get(path) : undefined;
    if (!bytes) {
      end(response, 404, { "x-error-code": "EntryNotFound" });
      return;
    }
    const common = { "x-repo-commit": commit };
    if (!LARGE.test(path)) {
      serve(bytes, asked, response, { ...common, etag: `"${gitBlob(bytes)}"` });
      return;
    }
    end(response, 302, {
      ...common,
      "x-linked-etag": `"${sha256(bytes)}"`,
      "x-linked-size": String(bytes.length),
      location: `${address(store)}/${sha256(bytes)}`,
    });
  }

  function find(hash: string): Buffer {
    for (const { files } of fixture.repositories.values())
      for (const bytes of files.values()) if (sha256(bytes) === hash) return bytes;
    return Buffer.alloc(0);
  }
}

export function serve(
  bytes: Buffer,
  asked: Asked,
  response: ServerResponse,
  headers: Record<string, string> = {},
): void {
  const start = Number(/bytes=(\d+)-/.exec(asked.range ?? "")?.[1] ?? 0);
  const range = start > 0 ? { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` } : {};
  response.writeHead(start > 0 ? 206 : 200, { ...headers, ...range, "content-length": bytes.length - start });
  response.end(asked.method === "HEAD" ? undefined : bytes.subarray(start));
}

export function end(response: ServerResponse, status: number, headers: Record<string, string> = {}): void {
  response.writeHead(status, headers);
  response.end();
}

async function listen(
  handler: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<Server> {
  const server = createServer(handler);
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  return server;
}

function address(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
