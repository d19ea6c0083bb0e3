// SPDX-License-Identifier: Apache-2.0
// What every stage process has in common: it is started by one message, reports errors before it exits
// non-zero, leaves Ctrl-C to the parent, and dies when the parent is gone.

import { connect, createServer, type Server, type Socket } from "node:net";
import { toWire } from "../wire-error.ts";
import type { FromStage, StageSettings, ToStage } from "./messages.ts";

export interface StageContext {
  settings: StageSettings;
  send(message: FromStage): void;
  onFinishShard(listener: () => void): void;
}

/** Runs a stage's body once the parent has said what to do; ends the process. */
export function runStage(body: (context: StageContext) => Promise<void>): void {
  const listeners: (() => void)[] = [];
  const send = (message: FromStage): void => {
    if (process.connected) process.send?.(message);
  };
  const fail = (error: unknown): void => {
    if (!process.connected) process.exit(1);
    process.send?.({ type: "error", error: toWire(error) } satisfies FromStage, () => process.exit(1));
  };
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => undefined);
  process.on("disconnect", () => process.exit(1));
  // The parent may have died while this module was loaded, before anyone listened.
  if (!process.connected) process.exit(1);
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  process.on("message", (message: ToStage) => {
    if (message.type === "finish-shard") {
      for (const listener of listeners) listener();
      return;
    }
    const context: StageContext = {
      settings: message.settings,
      send,
      onFinishShard: (listener) => listeners.push(listener),
    };
    body(context).then(() => {
      // The channel is flushed before the exit, so that the last message is not lost.
      if (process.connected) process.send?.({ type: "ready" } satisfies FromStage, () => process.exit(0));
      else process.exit(1);
    }, fail);
  });
}

/** Connects to a stage that may not listen yet. */
export async function connectTo(path: string): Promise<Socket> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      return await new Promise<Socket>((resolve, reject) => {
        const socket = connect(path);
        socket.once("connect", () => {
          socket.off("error", reject);
          // Later errors reach whoever reads or writes.
          socket.on("error", () => undefined);
          resolve(socket);
        });
        socket.once("error", reject);
      });
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if ((code !== "ENOENT" && code !== "ECONNREFUSED") || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Listens and gives the connections that come. */
export function listenAt(path: string, onSocket: (socket: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ pauseOnConnect: false }, (socket) => {
      socket.on("error", () => undefined);
      onSocket(socket);
    });
    server.once("error", reject);
    server.listen(path, () => resolve(server));
  });
}
