// SPDX-License-Identifier: Apache-2.0
// One HTTP download into a partial file: resumed by range after a cut, ended by silence or too many bytes.

import { createWriteStream } from "node:fs";
import { rm, stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

export interface HttpDownload {
  /** Size the file has to have. */
  bytes: number;
  /** Milliseconds to wait for the first answer. */
  patience: number;
  headers: Record<string, string>;
  signal?: AbortSignal | undefined;
  onBytes(done: number): void;
}

const ATTEMPTS = 5;
const STALL_MS = 30_000;

/** Fetches `url` into `path`, going on from what is there. Throws with one sentence that says why. */
export async function fetchToFile(url: string, path: string, options: HttpDownload): Promise<void> {
  let failure: unknown;
  let wait = 0;
  let answered = false;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    if (wait > 0) await sleep(wait, undefined, options.signal ? { signal: options.signal } : {});
    const before = await sizeOf(path);
    if (before === options.bytes) return;
    try {
      await once(url, path, before, answered ? STALL_MS : options.patience, options);
      return;
    } catch (error) {
      options.signal?.throwIfAborted();
      failure = error;
      // A hub that never answered is not asked again: the next source may.
      if (error instanceof Refused || isOfTheDisk(error)) break;
      if (!answered && error instanceof NoAnswer) break;
      answered = true;
      // A line that is cut again and again still gets there while each try brings something.
      if ((await sizeOf(path)) > before) attempt = 0;
      wait = error instanceof Later ? error.ms : 200 * 2 ** (attempt + 1);
    }
  }
  throw new Error(reasonOf(failure), { cause: failure });
}

/** The server answered, and will not give the file. */
class Refused extends Error {}
/** The server answered, and says when to ask again. */
class Later extends Error {
  readonly ms: number;
  constructor(message: string, ms: number) {
    super(message);
    this.ms = ms;
  }
}
/** Nothing came. */
class NoAnswer extends Error {}

async function once(
  url: string,
  path: string,
  have: number,
  patience: number,
  options: HttpDownload,
): Promise<void> {
  const stop = new AbortController();
  const relay = () => stop.abort(options.signal?.reason);
  options.signal?.addEventListener("abort", relay, { once: true });
  let timer = setTimeout(() => stop.abort(new NoAnswer(`no answer in ${patience} ms`)), patience);
  const alive = (ms: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(new Error(`nothing came for ${ms} ms`)), ms);
  };
  try {
    const response = await ask(url, have, stop.signal, options.headers);
    alive(STALL_MS);
    const resumed = response.status === 206;
    if (response.status === 416) {
      await rm(path, { force: true });
      throw new Error("the partial file did not fit the server's, starting over");
    }
    if (!response.ok) {
      const again = response.status === 429 || response.status >= 500;
      const sentence = `HTTP ${response.status} ${response.statusText}`.trim();
      const ms = retryAfter(response.headers.get("retry-after"));
      if (again && ms !== null) throw new Later(sentence, ms);
      // A signed address that has run out; the next try asks for another.
      const expired = response.status === 403 && response.redirected;
      throw again || expired ? new Error(sentence) : new Refused(sentence);
    }
    const start = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1];
    if (resumed && start !== undefined && Number(start) !== have) {
      await rm(path, { force: true });
      throw new Error(`asked for bytes from ${have}, got them from ${start}, starting over`);
    }
    if (!response.body) throw new Error("an answer without a body");
    let done = resumed ? have : 0;
    options.onBytes(done);
    const counted = async function* (body: AsyncIterable<Uint8Array>) {
      for await (const chunk of body) {
        done += chunk.length;
        if (done > options.bytes) throw new Refused(`more than the ${options.bytes} bytes expected`);
        alive(STALL_MS);
        options.onBytes(done);
        yield chunk;
      }
    };
    const out = createWriteStream(path, { flags: resumed ? "a" : "w" });
    await pipeline(Readable.fromWeb(response.body as never), counted, out);
    if (done !== options.bytes) throw new Error(`the connection ended at ${done} of ${options.bytes} bytes`);
  } catch (error) {
    throw stop.signal.aborted && stop.signal.reason instanceof Error ? stop.signal.reason : error;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", relay);
  }
}

async function ask(
  url: string,
  have: number,
  signal: AbortSignal,
  headers: Record<string, string>,
): Promise<Response> {
  const range: Record<string, string> = have > 0 ? { range: `bytes=${have}-` } : {};
  try {
    return await fetch(url, {
      signal,
      // fetch leaves the authorisation out where a redirect goes to another origin.
      headers: { ...headers, ...range, "accept-encoding": "identity" },
      redirect: "follow",
    });
  } catch (error) {
    if (signal.aborted) throw error;
    // DNS, refused connection, TLS: the cause says which.
    throw new NoAnswer(reasonOf(error));
  }
}

/** Milliseconds of a Retry-After header, ten minutes at most; null where there is none. */
function retryAfter(header: string | null): number | null {
  if (header === null) return null;
  const seconds = Number(header);
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 1), 600_000) : null;
}

/** A full disk or a folder without rights: asking again helps as little as another source. */
function isOfTheDisk(error: unknown): boolean {
  const { code, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  return ["ENOSPC", "EDQUOT", "EACCES", "EROFS"].includes(code ?? "") && syscall !== "connect";
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => null))?.size ?? 0;
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? error.cause.message : "";
  return cause ? `${error.message}: ${cause}` : error.message;
}
