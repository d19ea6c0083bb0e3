// SPDX-License-Identifier: Apache-2.0
// Notes on what was pulled: they tie a model's name to its archive, so that it loads without a network
// and after the hub's cache is emptied.

import { readdirSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { writeWhole } from "../../formats/write-whole.ts";
import { ensureFolder } from "../cache-folder.ts";
import { formatHubName, type HubName } from "./place.ts";

export interface PullRecord {
  name: HubName;
  commit: string;
  licence: string | null;
  /** Key of the archive. */
  key: string;
  /** Bytes of all files that were taken. */
  bytes: number;
  files: { path: string; bytes: number; etag: string }[];
}

export async function writeRecord(cache: string, record: PullRecord): Promise<void> {
  await ensureFolder(join(cache, "pulled"));
  const text = `${JSON.stringify(record, null, 2)}\n`;
  await writeWhole(recordPath(cache, record.name), new TextEncoder().encode(text));
}

/** null where there is none, or one that cannot be read: it is then made again. */
export function readRecord(cache: string, name: HubName): PullRecord | null {
  return parseRecord(recordPath(cache, name));
}

export function listRecords(cache: string): PullRecord[] {
  let names: string[];
  try {
    names = readdirSync(join(cache, "pulled")).filter((name) => name.endsWith(".json"));
  } catch {
    return [];
  }
  return names
    .sort()
    .map((name) => parseRecord(join(cache, "pulled", name)))
    .filter((record) => record !== null);
}

export async function removeRecord(cache: string, name: HubName): Promise<void> {
  await rm(recordPath(cache, name), { force: true });
}

function recordPath(cache: string, name: HubName): string {
  return join(cache, "pulled", `${encodeURIComponent(formatHubName(name))}.json`);
}

function parseRecord(path: string): PullRecord | null {
  try {
    const record = JSON.parse(readFileSync(path, "utf8")) as PullRecord;
    const good = typeof record.key === "string" && typeof record.name.repository === "string";
    return good && Array.isArray(record.files) ? record : null;
  } catch {
    return null;
  }
}
