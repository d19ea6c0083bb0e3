// SPDX-License-Identifier: Apache-2.0
// Models that lie in the hub's cache folder already, whoever fetched them.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { SteerError } from "../../errors.ts";
import { MODEL_TYPES } from "../families/index.ts";
import { ggufParts } from "../gguf-parts.ts";
import { cachedEtag, knownCommit, repositoryFolder, snapshotFolder } from "./cache.ts";
import { chooseFiles, type HubChoice, shardsOf } from "./choose.ts";
import type { HubName, HubPlace } from "./place.ts";

export interface Snapshot {
  name: HubName;
  commit: string;
  /** What is converted: the folder, or the GGUF file. */
  source: string;
  files: { path: string; bytes: number; etag: string }[];
  /** Whether a tokenizer is among them; another client may have taken the weights alone. */
  tokenizer: boolean;
}

/** The model in the cache, or null where it, or a part of it, is not there. No network. */
export function findSnapshot(place: HubPlace, name: HubName): Snapshot | null {
  const folder = repositoryFolder(place, name.repository);
  const commit = knownCommit(folder, name.revision);
  if (commit === null) return null;
  const snapshot = snapshotFolder(folder, commit);
  try {
    return snapshotOf(name, commit, snapshot, chooseFiles(snapshot, filesBelow(snapshot), name.file));
  } catch (error) {
    // Incomplete: the hub's answer counts then.
    if (error instanceof SteerError || (error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Every model in the cache folder that could be converted. */
export function listSnapshots(place: HubPlace): Snapshot[] {
  const found: Snapshot[] = [];
  for (const entry of namesIn(place.folder)) {
    const parts = /^models--(.+?)--(.+)$/.exec(entry);
    if (!parts) continue;
    const repository = `${parts[1]}/${parts[2]}`;
    for (const revision of filesBelow(join(place.folder, entry, "refs"))) {
      const name: HubName = { repository, revision, file: null };
      const whole = findSnapshot(place, name);
      if (whole) {
        if (isConvertible(whole)) found.push(whole);
        continue;
      }
      const commit = knownCommit(join(place.folder, entry), revision);
      const below = commit === null ? [] : filesBelow(snapshotFolder(join(place.folder, entry), commit));
      for (const file of below.filter((path) => path.endsWith(".gguf"))) {
        const one = findSnapshot(place, { ...name, file });
        if (one) found.push(one);
      }
    }
  }
  return found;
}

function snapshotOf(name: HubName, commit: string, folder: string, choice: HubChoice): Snapshot {
  const paths = choice.kind === "gguf" ? ggufParts(choice.file) : [...choice.files];
  if (choice.kind === "folder" && choice.index !== null)
    paths.push(...shardsOf(choice.index, readFileSync(join(folder, choice.index), "utf8")));
  const files = paths.map((path) => ({
    path,
    // Throws ENOENT where a link has lost its blob.
    bytes: statSync(join(folder, path)).size,
    etag: cachedEtag(join(folder, path)),
  }));
  const source = choice.kind === "gguf" ? join(folder, choice.file) : folder;
  const tokenizer = choice.kind === "gguf" || paths.includes("tokenizer.json");
  return { name, commit, source, files, tokenizer };
}

function isConvertible({ source }: Snapshot): boolean {
  if (source.endsWith(".gguf")) return true;
  try {
    const config = JSON.parse(readFileSync(join(source, "config.json"), "utf8")) as { model_type?: unknown };
    return MODEL_TYPES.includes(String(config.model_type));
  } catch {
    return false;
  }
}

/** Paths below a folder, by "/"; links count as files. */
function filesBelow(folder: string): string[] {
  return namesIn(folder)
    .sort()
    .flatMap((name) =>
      statSync(join(folder, name), { throwIfNoEntry: false })?.isDirectory()
        ? filesBelow(join(folder, name)).map((path) => `${name}/${path}`)
        : [name],
    );
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
