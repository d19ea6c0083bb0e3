// SPDX-License-Identifier: Apache-2.0
// A hub of this process with one tiny repository, and a cache folder, new for every test.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";
import { parseHubName } from "../../src/model/hub/place.ts";
import type { HubModelOptions } from "../../src/model/hub/pull.ts";
import { type HubFixture, sha256, startHub } from "../unit/hub-server.ts";
import { load } from "./converted-model.ts";
import { shared } from "./golden.ts";

export const LLAMA = shared("golden/decoders/llama");
export const COMMIT = "0123456789abcdef0123456789abcdef01234567";
export const LATER = "89abcdef0123456789abcdef0123456789abcdef";
export const NAME = parseHubName("org/tiny")!;

export let root: string;
export let hub: HubFixture;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), "chatspace-hub-"));
  hub = await startHub();
});
afterEach(() => {
  hub.close();
  rmSync(root, { recursive: true, force: true });
});

export function options(more: Record<string, string> = {}): HubModelOptions {
  return {
    cache: join(root, "ours"),
    environment: { HF_ENDPOINT: hub.endpoint, HF_HOME: join(root, "hf"), ...more },
    tries: 3,
    patience: 5_000,
  };
}

export const folder = () => join(root, "hf/hub/models--org--tiny");
export const snapshot = (commit = COMMIT) => join(folder(), "snapshots", commit);
export const names = () => [...hub.asked].map(({ method, origin }) => `${method} ${origin}`);

export function tiny(): Map<string, Buffer> {
  const files = ["config.json", "generation_config.json", "model.safetensors"];
  return new Map(files.map((name) => [name, readFileSync(join(LLAMA, name))]));
}

export function serveTiny(files = tiny(), more: { private?: boolean } = {}): Map<string, Buffer> {
  hub.repositories.set("org/tiny", { commit: COMMIT, files, ...more });
  return files;
}

/** The archive loads and says where it came from. */
export async function opened(
  archive: string,
): Promise<{ repository: string; revision: string; files: unknown[] }> {
  const model = await load(archive);
  try {
    return (JSON.parse(model.info.metadata) as { source: never }).source;
  } finally {
    await model.dispose();
  }
}

/** Nothing that a reader could take for a file is in the cache; partial files and locks are no such. */
export function nothingNamed(): boolean {
  const below = existsSync(folder()) ? readdirSync(folder(), { recursive: true, encoding: "utf8" }) : [];
  const weights = sha256(tiny().get("model.safetensors")!);
  return !below.some((path) => path.endsWith("model.safetensors") || path.endsWith(weights));
}
