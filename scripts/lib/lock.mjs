// SPDX-License-Identifier: Apache-2.0
// A lock file for work that must not run twice at once (a download, a build). Held by a living
// process of this host; a lock whose process is gone is taken over.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { say } from "./run.mjs";

/** Runs `work` while holding `file`; waits for another holder and says so once. */
export async function withLock(file, what, work) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const mine = JSON.stringify({ pid: process.pid, host: os.hostname() });
  for (let said = false; !take(file, mine); said = true) {
    if (!said) say(`waiting for another process: ${what} (${file})`);
    await sleep(200);
  }
  const drop = () => {
    if (read(file) === mine) fs.rmSync(file, { force: true });
  };
  process.once("exit", drop);
  try {
    return await work();
  } finally {
    process.removeListener("exit", drop);
    drop();
  }
}

function take(file, mine) {
  try {
    // link() makes the file appear with its content in one step; an empty lock is never seen.
    const temporary = `${file}.${process.pid}`;
    fs.writeFileSync(temporary, mine);
    try {
      fs.linkSync(temporary, file);
    } finally {
      fs.rmSync(temporary, { force: true });
    }
    return true;
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  const held = read(file);
  if (held === null || alive(held)) return false;
  // Renamed away first: of two processes that find the same dead lock only one removes it.
  const grave = `${file}.dead.${process.pid}`;
  try {
    fs.renameSync(file, grave);
    if (fs.readFileSync(grave, "utf8") !== held) fs.linkSync(grave, file);
    fs.rmSync(grave, { force: true });
  } catch {
    // Another process was faster.
  }
  return false;
}

function alive(held) {
  try {
    const { pid, host } = JSON.parse(held);
    if (host !== os.hostname()) return true;
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

function read(file) {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return null;
  }
}
