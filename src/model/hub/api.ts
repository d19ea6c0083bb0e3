// SPDX-License-Identifier: Apache-2.0
// What a hub says of a repository: the commit of a revision, its files, and of one file the size and
// hash. Whatever is no hub's answer (a login page, a proxy's apology) is refused with what came instead.

import { isTransient, pause, waitBefore } from "../../data/sources/retry.ts";
import { DataError, ServiceError } from "../../errors.ts";
import type { HubName, HubPlace } from "./place.ts";

export interface HubRepository {
  name: HubName;
  /** 40 hex digits. */
  commit: string;
  /** Paths of all files. */
  files: readonly string[];
  licence: string | null;
}

export interface HubFile {
  path: string;
  bytes: number;
  /** sha256 of the content (large files), or the git blob id (sha1) of small ones; names the blob. */
  etag: string;
}

export interface HubRequest {
  place: HubPlace;
  signal?: AbortSignal | undefined;
  /** Tries of one request. Default 5. */
  tries?: number;
  /** Milliseconds an answer may take to begin. Default 20,000. */
  patience?: number;
}

const REDIRECTS = 5;

/** Throws ERR_HUB_NOT_FOUND, ERR_HUB_ACCESS, ERR_HUB_STATUS, ERR_HUB_ANSWER, ERR_SERVICE_UNREACHABLE. */
export async function hubRepository(name: HubName, request: HubRequest): Promise<HubRepository> {
  const { repository, revision } = name;
  const url = `${request.place.endpoint}/api/models/${repository}/revision/${encodeURIComponent(revision)}`;
  const response = await ask("GET", url, request);
  const what = `${repository} at ${revision}`;
  if (!response.ok) throw await refused(response, what, url);
  const text = await response.text();
  const { sha, siblings, cardData } = (parse(text) ?? {}) as Record<string, unknown>;
  const files = (Array.isArray(siblings) ? siblings : []).map(
    (file: { rfilename?: unknown }) => file?.rfilename,
  );
  if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha) || !files.every(isPath) || files.length === 0)
    throw noHub(url, "JSON with a commit (sha) and files (siblings)", text.slice(0, 60).trim() || "nothing");
  const licence = (cardData as { license?: unknown } | undefined)?.license;
  return { name, commit: sha, files, licence: typeof licence === "string" ? licence : null };
}

/** Size and hash of one file at a commit, from the headers alone. Throws as hubRepository. */
export async function hubFile(repo: HubRepository, path: string, request: HubRequest): Promise<HubFile> {
  const url = fileUrl(repo, path, request.place);
  const response = await ask("HEAD", url, request);
  const headers = response.headers;
  const linked = headers.get("x-linked-etag");
  if (!response.ok && linked === null)
    throw await refused(response, `${path} of ${repo.name.repository}`, url);
  const etag = (linked ?? headers.get("etag") ?? "").replace(/^W\//, "").replaceAll('"', "");
  const size = headers.get("x-linked-size") ?? headers.get("content-length") ?? "";
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag))
    throw noHub(url, "the file's sha256 or git blob id (X-Linked-Etag, ETag)", etag || "none");
  if (!/^\d+$/.test(size))
    throw noHub(url, "the file's size (X-Linked-Size, Content-Length)", size || "none");
  return { path, bytes: Number(size), etag };
}

/** Address of a file's content. */
export function fileUrl(repo: HubRepository, path: string, place: HubPlace): string {
  const parts = path.split("/").map(encodeURIComponent).join("/");
  return `${place.endpoint}/${repo.name.repository}/resolve/${repo.commit}/${parts}`;
}

/** Asks until there is an answer that is not "later"; redirects are followed by hand, for the token's sake. */
async function ask(method: "GET" | "HEAD", url: string, request: HubRequest): Promise<Response> {
  const { place, signal, tries = 5, patience = 20_000 } = request;
  const waits = { tries, waitMs: 400, maxWaitMs: 10_000 };
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted();
    try {
      const response = await hops(method, url, place, patience, signal);
      if (!isTransient(response.status) || attempt >= tries) return response;
      await response.body?.cancel();
      await pause(waitBefore(attempt, waits, response.headers.get("retry-after")), signal);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ServiceError) throw error;
      if (attempt >= tries || isHopeless(error)) throw silent(url, attempt, error);
      await pause(waitBefore(attempt, waits, null), signal);
    }
  }
}

async function hops(
  method: string,
  first: string,
  place: HubPlace,
  patience: number,
  signal: AbortSignal | undefined,
): Promise<Response> {
  const own = new URL(place.endpoint).origin;
  let url = first;
  for (let hop = 0; hop <= REDIRECTS; hop++) {
    const mine = place.token !== null && new URL(url).origin === own;
    const limit = AbortSignal.timeout(patience);
    const response = await fetch(url, {
      method,
      redirect: "manual",
      headers: { "accept-encoding": "identity", ...(mine ? { authorization: `Bearer ${place.token}` } : {}) },
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const location = response.headers.get("location");
    // A large file's redirect says already what the file is.
    const told = method === "HEAD" && response.headers.has("x-linked-etag");
    if (response.status < 300 || response.status >= 400 || location === null || told) return response;
    await response.body?.cancel();
    url = new URL(location, url).href;
  }
  throw noHub(first, "an answer", `more than ${REDIRECTS} redirects`);
}

async function refused(response: Response, what: string, url: string): Promise<ServiceError | DataError> {
  const { status } = response;
  const reason = response.headers.get("x-error-code") ?? "";
  await response.body?.cancel();
  const details = { url, status, reason };
  if (status === 404)
    return new DataError("ERR_HUB_NOT_FOUND", `${url} answered 404: ${what} is not there`, {
      details,
      remedies: [
        "Check the name and the revision on the repository's page.",
        "A private repository needs HF_TOKEN.",
        "If a path was meant: nothing lies there.",
      ],
    });
  if (status === 401 || status === 403) {
    const gated = reason === "GatedRepo";
    return new ServiceError(
      "ERR_HUB_ACCESS",
      `${url} answered ${status}: ${what} ${gated ? "asks its readers to agree to its terms" : "is private, or is not there"}`,
      {
        details,
        remedies: [
          "Set HF_TOKEN to a token that may read it.",
          gated ? "Agree to the terms on the repository's page." : "Check the name on the repository's page.",
        ],
      },
    );
  }
  return new ServiceError("ERR_HUB_STATUS", `${url} answered ${status} ${response.statusText}`.trim(), {
    details,
    remedies: ["Try again later."],
  });
}

function noHub(url: string, expected: string, got: string): ServiceError {
  return new ServiceError("ERR_HUB_ANSWER", `${url}: expected ${expected}, got ${got}`, {
    details: { url, expected, got },
    remedies: [
      "Check HF_ENDPOINT: it has to be a hub, or a mirror of one.",
      "A proxy or a login page may have answered in its place.",
    ],
  });
}

function silent(url: string, tries: number, error: unknown): ServiceError {
  return new ServiceError(
    "ERR_SERVICE_UNREACHABLE",
    `${url} did not answer in ${tries} ${tries === 1 ? "try" : "tries"}: ${reasonOf(error)}`,
    {
      details: { url, tries },
      remedies: ["Check the network.", "HF_ENDPOINT names another hub or a mirror."],
      cause: error,
    },
  );
}

/** A name that does not resolve or a closed port will not heal in seconds. */
function isHopeless(error: unknown): boolean {
  const code = (error as { cause?: { code?: string } } | null)?.cause?.code ?? "";
  return (
    ["ENOTFOUND", "ECONNREFUSED", "ERR_INVALID_URL"].includes(code) ||
    (error instanceof TypeError && code === "")
  );
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}

function isPath(path: unknown): path is string {
  return (
    typeof path === "string" && path !== "" && !path.startsWith("/") && !/(^|\/)\.\.?(\/|$)|\\/.test(path)
  );
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
