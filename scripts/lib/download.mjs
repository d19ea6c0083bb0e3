// SPDX-License-Identifier: Apache-2.0
// One HTTP download to a file: fails in seconds when nobody answers, goes on where an earlier attempt
// stopped (Range, tied to the ETag so that two versions of a file never mix), ends with a rename.
import fs from "node:fs";
import path from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { say } from "./run.mjs";

/**
 * @param {string} url
 * @param {string} target
 * @param {{ answerMs?: number, stallMs?: number }} limits time to the first answer; longest silence after it
 */
export async function download(url, target, { answerMs = 2_000, stallMs = 30_000 } = {}) {
  const part = `${target}.part`;
  const noteFile = `${target}.part.json`;
  fs.mkdirSync(path.dirname(target), { recursive: true });
  const note = readNote(noteFile);
  let have = note?.url === url && note.etag && fs.existsSync(part) ? fs.statSync(part).size : 0;

  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(new Error(`no answer in ${answerMs / 1000} s`)), answerMs);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(new Error(`nothing came for ${stallMs / 1000} s`)), stallMs);
  };
  try {
    const headers = have > 0 ? { range: `bytes=${have}-`, "if-range": note.etag } : {};
    const response = await fetch(url, { headers, signal: stop.signal, redirect: "follow" }).catch((error) => {
      throw new Error(`${new URL(url).host}: ${plain(error)}`);
    });
    if (response.status === 416) {
      fs.rmSync(part, { force: true });
      throw new Error(
        `${new URL(url).host}: the partial download was too long and has been dropped; run again`,
      );
    }
    if (!response.ok) throw new Error(`${new URL(url).host}: HTTP ${response.status} for ${url}`);
    alive();
    if (response.status !== 206) have = 0;
    const length = Number(response.headers.get("content-length") ?? Number.NaN);
    const total = Number.isFinite(length) ? have + length : Number.NaN;
    fs.writeFileSync(noteFile, JSON.stringify({ url, etag: response.headers.get("etag") }));
    if (have > 0) say(`${path.basename(target)}: going on at ${megabytes(have)}`);

    const progress = progressLine(path.basename(target), total);
    let done = have;
    const count = new Transform({
      transform(chunk, _encoding, next) {
        done += chunk.length;
        alive();
        progress(done);
        next(null, chunk);
      },
    });
    await pipeline(response.body, count, fs.createWriteStream(part, { flags: have > 0 ? "a" : "w" }), {
      signal: stop.signal,
    }).catch((error) => {
      throw new Error(
        `${new URL(url).host}: broken off at ${megabytes(done)}: ${plain(stop.signal.reason ?? error)}`,
      );
    });
    if (Number.isFinite(total) && done !== total)
      throw new Error(`${new URL(url).host}: got ${done} bytes, expected ${total}`);
    fs.renameSync(part, target);
    fs.rmSync(noteFile, { force: true });
    return target;
  } finally {
    clearTimeout(timer);
  }
}

/** Prints progress at most every two seconds. */
export function progressLine(name, total) {
  let last = Date.now();
  return (done) => {
    if (Date.now() - last < 2_000) return;
    last = Date.now();
    say(`${name}: ${megabytes(done)}${Number.isFinite(total) ? ` of ${megabytes(total)}` : ""}`);
  };
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

/** The cause of a fetch failure is what says something ("getaddrinfo ENOTFOUND ..."). */
function plain(error) {
  return error?.cause?.message || error?.message || String(error);
}

function readNote(file) {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    return null;
  }
}
