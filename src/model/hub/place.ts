// SPDX-License-Identifier: Apache-2.0
// Where models come from and where they lie: a hub's address, the token, the folder that Python's hub
// client uses too; and how a user writes a model's name.

import { homedir } from "node:os";
import { join } from "node:path";
import { misuse } from "../../errors.ts";

export interface HubPlace {
  /** Without a slash at the end. */
  endpoint: string;
  /** Sent to the endpoint's own origin and nowhere else. */
  token: string | null;
  /** The folder that holds models--ORG--NAME folders. */
  folder: string;
  /** HF_HUB_OFFLINE: nothing is asked for. */
  offline: boolean;
}

/** A model on a hub, as a user names it: org/name, org/name@revision, org/name:file, org/name@revision:file. */
export interface HubName {
  repository: string;
  /** Branch, tag or commit. */
  revision: string;
  /** A GGUF file of the repository or a part of its name ("Q4_K_M"); null = whatever fits. */
  file: string | null;
}

/** From the variables that the hub's other clients read. */
export function hubPlace(environment: NodeJS.ProcessEnv = process.env): HubPlace {
  const caches = environment.XDG_CACHE_HOME || join(homedir(), ".cache");
  const home = environment.HF_HOME || join(caches, "huggingface");
  return {
    endpoint: (environment.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, ""),
    token: environment.HF_TOKEN || environment.HUGGING_FACE_HUB_TOKEN || null,
    folder: environment.HF_HUB_CACHE || environment.HUGGINGFACE_HUB_CACHE || join(home, "hub"),
    offline: /^(1|on|yes|true)$/i.test(environment.HF_HUB_OFFLINE ?? ""),
  };
}

const PART = "[A-Za-z0-9_][A-Za-z0-9_.-]*";
const NAME = new RegExp(`^(${PART}/${PART})(?:@([^:@\\s]+))?(?::([^\\s]+))?$`);
/** What a path ends with, and no repository does. */
const PATH_ENDING = /\.(pt|pth|ts|torchscript|gguf|safetensors|bin|json)$/i;

/** The name a text is, or null where it can only be a path. */
export function parseHubName(text: string): HubName | null {
  const parts = NAME.exec(text);
  if (!parts) return null;
  const [, repository = "", revision = "main", file = null] = parts;
  if (PATH_ENDING.test(repository) || repository.includes("..")) return null;
  return { repository, revision: checkRevision(revision), file };
}

/** The name in its shortest form; parseHubName reads it back. */
export function formatHubName({ repository, revision, file }: HubName): string {
  return `${repository}${revision === "main" ? "" : `@${revision}`}${file === null ? "" : `:${file}`}`;
}

/** A revision becomes part of a path in the cache. Throws RangeError ERR_ARGUMENT_RANGE. */
export function checkRevision(revision: string): string {
  const safe = /^[\w][\w./-]*$/.test(revision) && !revision.split("/").some((part) => /^\.*$/.test(part));
  if (safe) return revision;
  throw misuse(RangeError, "ERR_ARGUMENT_RANGE", "revision", "a branch, a tag or a commit", revision);
}
