// SPDX-License-Identifier: Apache-2.0
// Messages between stages: a small JSON header and blocks of bytes, over a local socket. The reader
// takes a frame only when its stage asks for one; a full stage so stops the one before it through the
// socket's own flow control.

import { once } from "node:events";
import type { Socket } from "node:net";

export interface Frame {
  header: Record<string, unknown>;
  blocks: Uint8Array[];
}

/** Code of errors that only say that a neighbour is gone. */
export const LINK_CODE = "ERR_STAGE_LINK";

/** An error whose cause is another stage. */
export function linkError(message: string): Error {
  return Object.assign(new Error(message), { code: LINK_CODE });
}

/** Writes a frame and waits while the peer is behind. */
export async function writeFrame(socket: Socket, frame: Frame): Promise<void> {
  const lengths = frame.blocks.map((block) => block.byteLength);
  const header = Buffer.from(JSON.stringify({ header: frame.header, lengths }));
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32LE(header.byteLength, 0);
  socket.cork();
  socket.write(prefix);
  let room = socket.write(header);
  for (const block of frame.blocks) if (block.byteLength > 0) room = socket.write(block);
  socket.uncork();
  if (!room && !socket.destroyed) {
    const gone = new AbortController();
    try {
      await Promise.race([
        once(socket, "drain", { signal: gone.signal }),
        once(socket, "close", { signal: gone.signal }),
      ]);
    } finally {
      gone.abort();
    }
  }
  if (socket.destroyed) throw linkError("the next stage closed its connection");
}

/** Frames of a connection in order. Ends where the peer ended between two frames; throws inside one. */
export async function* readFrames(socket: Socket): AsyncGenerator<Frame> {
  let chunks: Buffer[] = [];
  let have = 0;
  const input = socket[Symbol.asyncIterator]() as AsyncIterableIterator<Buffer>;

  const take = async (bytes: number): Promise<Buffer | null> => {
    while (have < bytes) {
      const next = await input.next();
      if (next.done) return null;
      chunks.push(next.value);
      have += next.value.byteLength;
    }
    // A copy of its own: typed arrays over it need aligned memory that nobody else holds.
    const out = Buffer.from(new ArrayBuffer(bytes));
    let filled = 0;
    while (filled < bytes) {
      const chunk = chunks[0] as Buffer;
      const part = chunk.subarray(0, bytes - filled);
      out.set(part, filled);
      filled += part.byteLength;
      if (part.byteLength === chunk.byteLength) chunks.shift();
      else chunks[0] = chunk.subarray(part.byteLength);
    }
    have -= bytes;
    if (chunks.length === 0) chunks = [];
    return out;
  };
  const must = async (bytes: number): Promise<Buffer> => {
    const block = await take(bytes);
    if (block === null) throw linkError("the stage before ended inside a message");
    return block;
  };

  for (;;) {
    const prefix = await take(4);
    if (prefix === null) {
      if (have > 0) throw linkError("the stage before ended inside a message");
      return;
    }
    const { header, lengths } = JSON.parse((await must(prefix.readUInt32LE(0))).toString()) as {
      header: Record<string, unknown>;
      lengths: number[];
    };
    const blocks: Uint8Array[] = [];
    for (const length of lengths) blocks.push(await must(length));
    yield { header, blocks };
  }
}
