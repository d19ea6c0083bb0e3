// SPDX-License-Identifier: Apache-2.0
// The queue's Redis: address, first contact, names.

import { Redis } from "ioredis";
import { ServiceError } from "../../errors.ts";

/** All runs share one queue; any worker can take any range. */
export const QUEUE_NAME = "embed";
export const QUEUE_PREFIX = "chatspace";

const FIRST_CONTACT_MS = 5_000;

/** Connects, or says within seconds that nobody answers. Later breaks are waited out. */
export async function connectRedis(url: string): Promise<Redis> {
  if (!/^rediss?:\/\//.test(url)) {
    throw new ServiceError("ERR_QUEUE_ADDRESS", `${url} is not the address of a Redis server`, {
      details: { url },
      remedies: ["write it as redis://host:6379 or rediss://user:password@host:6379/0"],
    });
  }
  // BullMQ wants requests to wait for a connection that comes back.
  const client = new Redis(url, {
    maxRetriesPerRequest: null,
    lazyConnect: true,
    connectTimeout: FIRST_CONTACT_MS,
    retryStrategy: (times) => Math.min(times * 200, 5_000),
  });
  let last: unknown = null;
  client.on("error", (error) => {
    last = error;
  });
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(last ?? new Error("no answer")), FIRST_CONTACT_MS);
    });
    await Promise.race([client.connect().then(() => client.ping()), late]);
  } catch (error) {
    client.disconnect();
    throw new ServiceError(
      "ERR_QUEUE_UNREACHABLE",
      `No Redis answers at ${url.replace(/\/\/[^@/]*@/, "//")}: ${(error as Error).message}`,
      {
        remedies: ["start one: redis-server --port 6379", "check host, port and password of --queue"],
        cause: error,
      },
    );
  } finally {
    clearTimeout(timer);
  }
  return client;
}
