// SPDX-License-Identifier: Apache-2.0
// A repository on the Hugging Face hub (or anything that speaks its API): listed once at a commit, its
// files fetched into a cache, resumed where a connection broke, checked against the hub's own hashes.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { datasetInfo, fileDownloadInfo, listFiles, modelInfo } from "@huggingface/hub";
import { DataError, ServiceError } from "../../errors.ts";
import { asWriteError, statOrNull, syncDirectory } from "../files.ts";
import { sanitizeComponent } from "../names.ts";
import {
  DEFAULT_RETRY,
  isTransient,
  pause,
  type RetryOptions,
  retryingFetch,
  unreachable,
  waitBefore,
} from "./retry.ts";

export interface HubOptions {
  type: "dataset" | "model";
  name: string;
  /** Branch, tag or commit. */
  revision: string;
  cacheFolder: string;
  retry?: Partial<RetryOptions>;
}

export interface HubFile {
  path: string;
  bytes: number;
  /** sha256 of the content (LFS), else "git:" and the git blob id. */
  hash: string;
}

/** Endpoint and token from the variables that other hub clients use. */
export function hubEnvironment(env: NodeJS.ProcessEnv = process.env): {
  hubUrl: string;
  token: string | null;
} {
  const hubUrl = (env.HF_ENDPOINT ?? "https://huggingface.co").replace(/\/+$/, "");
  return { hubUrl, token: env.HF_TOKEN ?? env.HUGGING_FACE_HUB_TOKEN ?? null };
}

/** A repository at one commit. */
export class HubRepo {
  readonly options: HubOptions;
  readonly commit: string;
  readonly files: readonly HubFile[];
  readonly #retry: RetryOptions;
  readonly #folder: string;

  private constructor(options: HubOptions, commit: string, files: readonly HubFile[], retry: RetryOptions) {
    this.options = options;
    this.commit = commit;
    this.files = files;
    this.#retry = retry;
    this.#folder = join(
      options.cacheFolder,
      "hub",
      `${options.type}s--${sanitizeComponent(options.name)}`,
      commit,
    );
  }

  /** Where the files lie once fetched. */
  get folder(): string {
    return this.#folder;
  }

  /** Resolves the revision to a commit and lists its files. */
  static async open(options: HubOptions): Promise<HubRepo> {
    const retry = { ...DEFAULT_RETRY, ...options.retry };
    const { hubUrl, token } = hubEnvironment();
    const access = token === null ? {} : { accessToken: token };
    const common = { hubUrl, fetch: retryingFetch(retry), ...access };
    try {
      const info =
        options.type === "dataset"
          ? await datasetInfo({
              name: options.name,
              revision: options.revision,
              additionalFields: ["sha"],
              ...common,
            })
          : await modelInfo({
              name: options.name,
              revision: options.revision,
              additionalFields: ["sha"],
              ...common,
            });
      const commit = info.sha;
      const files: HubFile[] = [];
      const repo = { type: options.type, name: options.name } as const;
      for await (const file of listFiles({ repo, revision: commit, recursive: true, ...common })) {
        if (file.type !== "file") continue;
        const hash = file.lfs?.oid ?? `git:${file.oid ?? ""}`;
        files.push({ path: file.path, bytes: file.lfs?.size ?? file.size, hash });
      }
      return new HubRepo(options, commit, files, retry);
    } catch (error) {
      throw hubError(error, options, hubUrl);
    }
  }

  /** Fetches a file unless it lies in the cache, checks it, and gives its path. */
  async fetchFile(path: string): Promise<string> {
    const file = this.files.find((candidate) => candidate.path === path);
    if (file === undefined) {
      throw new DataError("ERR_HUB_FILE", `${this.options.name} has no file ${path} at ${this.commit}`, {
        details: { repo: this.options.name, path, commit: this.commit },
        remedies: ["check --revision", "list the repository's files on its page"],
      });
    }
    const target = join(this.#folder, path);
    const there = await statOrNull(target);
    if (there !== null && Number(there.size) === file.bytes) return target;
    await mkdir(dirname(target), { recursive: true });
    const partial = `${target}.incomplete`;
    for (let pass = 1; ; pass++) {
      await this.#download(file, partial);
      const hash = await hashOf(partial, file);
      if (hash === file.hash) break;
      await rm(partial, { force: true });
      if (pass === 2) {
        throw new ServiceError(
          "ERR_HUB_HASH",
          `${path} of ${this.options.name} came with another hash than the hub names`,
          {
            details: { path, expected: file.hash, got: hash },
            remedies: [
              "rerun: the file is fetched anew",
              "a proxy or mirror may alter files: check HF_ENDPOINT",
            ],
          },
        );
      }
    }
    await rename(partial, target);
    await syncDirectory(dirname(target));
    return target;
  }

  async #download(file: HubFile, partial: string): Promise<void> {
    const { hubUrl, token } = hubEnvironment();
    const access = token === null ? {} : { accessToken: token };
    const fetcher = retryingFetch(this.#retry);
    const repo = { type: this.options.type, name: this.options.name } as const;
    let failures = 0;
    let link: Awaited<ReturnType<typeof fileDownloadInfo>> = null;
    for (;;) {
      const have = Number((await statOrNull(partial))?.size ?? 0);
      if (have === file.bytes && have > 0) return;
      if (have > file.bytes) await rm(partial, { force: true });
      let gained = 0;
      try {
        link ??= await fileDownloadInfo({
          repo,
          path: file.path,
          revision: this.commit,
          hubUrl,
          fetch: fetcher,
          ...access,
        });
        if (link === null) throw new ServiceError("ERR_HUB_FILE", `${file.path} is listed but not served`);
        const sameHost = new URL(link.url).origin === new URL(hubUrl).origin;
        const from = have > file.bytes ? 0 : have;
        const response = await fetcher(link.url, {
          headers: {
            ...(from > 0 ? { Range: `bytes=${from}-` } : {}),
            ...(token !== null && sameHost ? { Authorization: `Bearer ${token}` } : {}),
          },
        });
        if (!response.ok) {
          await response.body?.cancel();
          if (!isTransient(response.status) && response.status !== 403 && response.status !== 416)
            throw hubStatus(response.status, link.url);
          // A signed link that has run out answers 403: ask the hub for another one.
          link = null;
          throw new Error(`status ${response.status}`);
        }
        const handle = await open(partial, response.status === 206 && from > 0 ? "a" : "w");
        try {
          if (response.body !== null) {
            for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
              await handle.appendFile(chunk);
              gained += chunk.byteLength;
            }
          } else if (file.bytes === 0) return;
          await handle.sync();
        } finally {
          await handle.close();
        }
        if (Number((await statOrNull(partial))?.size ?? 0) === file.bytes) return;
        throw new Error("the connection ended early");
      } catch (error) {
        if (error instanceof ServiceError || error instanceof DataError) throw error;
        const write = asWriteError(error, partial);
        if (write !== error) throw write;
        failures = gained > 0 ? 1 : failures + 1;
        if (failures >= this.#retry.tries)
          throw unreachable(`${hubUrl}/${this.options.name}/${file.path}`, failures, error);
        await pause(waitBefore(failures, this.#retry, null), this.#retry.signal);
      }
    }
  }
}

async function hashOf(path: string, file: HubFile): Promise<string> {
  const git = file.hash.startsWith("git:");
  const hash = createHash(git ? "sha1" : "sha256");
  if (git) hash.update(`blob ${file.bytes}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return (git ? "git:" : "") + hash.digest("hex");
}

function hubStatus(status: number, url: string): ServiceError {
  return new ServiceError("ERR_HUB_STATUS", `${url} answered ${status}`, {
    details: { url, status },
    remedies:
      status === 401 || status === 403 ? ["set HF_TOKEN to a token that may read it"] : ["rerun later"],
  });
}

function hubError(error: unknown, options: HubOptions, hubUrl: string): unknown {
  const status = (error as { statusCode?: number } | null)?.statusCode;
  if (status === undefined) return error;
  if (status === 404 || status === 401) {
    return new DataError(
      "ERR_HUB_NOT_FOUND",
      `${hubUrl} knows no ${options.type} ${options.name} at revision ${options.revision} (status ${status})`,
      {
        details: { name: options.name, revision: options.revision, status },
        remedies: [
          "check the name and --revision",
          "a private or gated one needs HF_TOKEN",
          "a local folder is given as ./folder",
        ],
        cause: error,
      },
    );
  }
  return new ServiceError("ERR_HUB_STATUS", `${hubUrl} answered ${status} for ${options.name}`, {
    details: { name: options.name, status },
    remedies: ["rerun later"],
    cause: error,
  });
}
