// SPDX-License-Identifier: Apache-2.0
// Where the addon and libtorch may lie. The order is the one scripts/fetch-libtorch.mjs fills.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** The package's folder: src/native/ and dist/native/ both lie two levels below it. */
export const packageRoot: string = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");

/** The libtorch version a published binary was built with. */
export const DEFAULT_LIBTORCH = "2.11.0";

export interface LibtorchPlace {
  /** Holds include/ (not needed at run time) and lib/. */
  directory: string;
  /** What led there, for messages. */
  source: "CHATSPACE_LIBTORCH" | "vendor/libtorch" | "user cache";
  /** Whether lib/libtorch_cpu.so and lib/libc10.so are there. */
  found: boolean;
}

/** The user cache: CHATSPACE_CACHE, else chatspace-steer under XDG_CACHE_HOME or ~/.cache. */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  if (env.CHATSPACE_CACHE) return path.resolve(env.CHATSPACE_CACHE);
  return path.join(env.XDG_CACHE_HOME || path.join(os.homedir(), ".cache"), "chatspace-steer");
}

/** Every place a libtorch is looked for, in order. CHATSPACE_LIBTORCH, when set, is the only one. */
export function libtorchPlaces(env: NodeJS.ProcessEnv = process.env): LibtorchPlace[] {
  const place = (directory: string, source: LibtorchPlace["source"]): LibtorchPlace => ({
    directory,
    source,
    found: ["libc10.so", "libtorch_cpu.so"].every((name) => fs.existsSync(path.join(directory, "lib", name))),
  });
  const named = env.CHATSPACE_LIBTORCH;
  if (named) return [place(path.resolve(named), "CHATSPACE_LIBTORCH")];
  return [
    place(path.join(packageRoot, "vendor", "libtorch"), "vendor/libtorch"),
    ...["cuda", "cpu"].map((variant) =>
      place(path.join(cacheRoot(env), `libtorch-${DEFAULT_LIBTORCH}-${variant}`), "user cache"),
    ),
  ];
}

/** What an unpacked libtorch says it is ("2.11.0", "2.11.0+cu130"), or null when it does not say. */
export function libtorchVersion(directory: string): string | null {
  for (const [file, pattern] of [
    ["build-version", /^([\w.+]+)/],
    ["version.py", /__version__ = '([^']+)'/],
  ] as const) {
    try {
      const match = pattern.exec(fs.readFileSync(path.join(directory, file), "utf8"));
      if (match?.[1]) return match[1];
    } catch {
      // A libtorch of another origin has other files.
    }
  }
  return null;
}

/** Paths the addon may have, in order. CHATSPACE_ADDON, when set, is the only one. */
export function addonPaths(env: NodeJS.ProcessEnv = process.env): string[] {
  const named = env.CHATSPACE_ADDON;
  if (named) return [path.resolve(named)];
  const prebuilt = prebuiltFolder();
  const inPrebuilt = fs.existsSync(prebuilt)
    ? fs.readdirSync(prebuilt).filter((name) => name.endsWith(".node"))
    : ["chatspace-steer.node"];
  return [
    path.join(packageRoot, "build", "Release", "chatspace_steer.node"),
    ...inPrebuilt.map((name) => path.join(prebuilt, name)),
  ];
}

/** Paths the preload addon may have, in order. */
export function preloadPaths(): string[] {
  return [
    path.join(packageRoot, "build", "preload", "chatspace_preload.node"),
    path.join(prebuiltFolder(), "preload", "chatspace_preload.node"),
  ];
}

function prebuiltFolder(): string {
  return path.join(packageRoot, "prebuilds", `${process.platform}-${process.arch}`);
}
