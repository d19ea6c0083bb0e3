// SPDX-License-Identifier: Apache-2.0
// Who wrote a shard: name and version of this package, and the commit where it runs from a checkout.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";

const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  name: string;
  version: string;
};

export const TOOL = { package: manifest.name, version: manifest.version } as const;

/** Commit of the working folder, or null where there is none. */
export async function gitSha(): Promise<string | null> {
  try {
    const { stdout } = await promisify(execFile)("git", ["rev-parse", "HEAD"], { timeout: 5_000 });
    return /^[0-9a-f]{40}$/.test(stdout.trim()) ? stdout.trim() : null;
  } catch {
    return null;
  }
}
