// SPDX-License-Identifier: Apache-2.0
// Serves the page on loopback, and full rows on a click.

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, dirname } from "node:path";
import { gzipSync } from "node:zlib";
import { listShards, readShard } from "../../data/shards/reader.ts";
import { jsonReplacer } from "../../data/shards/schema.ts";
import { EnvironmentError } from "../../errors.ts";
import { visualPage } from "./page.ts";
import type { PointSet } from "./points.ts";

export interface VisualServer {
  url: string;
  close(): Promise<void>;
}

/** The full row of a point: every column of its shard but the vector. */
export async function fullRow(points: PointSet, index: number): Promise<Record<string, unknown> | null> {
  const shard = points.shards[index];
  const row = points.shardRows[index] ?? -1;
  if (shard === null || shard === undefined || row < 0) return null;
  const found = (await listShards(dirname(shard))).find((file) => basename(file.path) === basename(shard));
  if (found === undefined) return null;
  const columns = found.columns.filter((name) => name !== "embedding");
  for await (const batch of readShard(found.path, columns, { start: row, end: row + 1 }))
    return batch.rows[0] ?? null;
  return null;
}

/** Listens; port 0 takes a free one. */
export async function serveVisual(
  points: PointSet,
  options: { title: string; host: string; port: number },
): Promise<VisualServer> {
  const page = gzipSync(visualPage(points, { title: options.title, served: true }));
  const server: Server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://localhost");
    if (url.pathname === "/") {
      response.writeHead(200, { "content-type": "text/html; charset=utf-8", "content-encoding": "gzip" });
      response.end(page);
      return;
    }
    const index = Number(url.searchParams.get("i"));
    if (url.pathname !== "/row" || !Number.isInteger(index) || index < 0 || index >= points.rows) {
      response.writeHead(404, { "content-type": "application/json" });
      response.end('{"error":"not found"}');
      return;
    }
    fullRow(points, index).then(
      (row) => {
        response.writeHead(row === null ? 404 : 200, { "content-type": "application/json" });
        response.end(JSON.stringify(row ?? { error: "the shard of this row is not here" }, jsonReplacer));
      },
      () => {
        response.writeHead(404, { "content-type": "application/json" });
        response.end('{"error":"the shard of this row is not here"}');
      },
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      reject(
        new EnvironmentError(
          "ERR_LISTEN",
          `Cannot listen on ${options.host}:${options.port}: ${error.message}`,
          {
            details: { host: options.host, port: options.port },
            remedies: ["take another --port (0 takes a free one)"],
            cause: error,
          },
        ),
      );
    });
    server.listen(options.port, options.host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}/`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
