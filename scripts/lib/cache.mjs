// SPDX-License-Identifier: Apache-2.0
// The user cache: CHATSPACE_CACHE, else chatspace-steer under XDG_CACHE_HOME or ~/.cache.
import os from "node:os";
import path from "node:path";

export function cacheRoot(env = process.env) {
  if (env.CHATSPACE_CACHE) return path.resolve(env.CHATSPACE_CACHE);
  return path.join(env.XDG_CACHE_HOME || path.join(os.homedir(), ".cache"), "chatspace-steer");
}

/** Where an unpacked libtorch lives. */
export function libtorchHome(version, cuda, env = process.env) {
  return path.join(cacheRoot(env), `libtorch-${version}-${cuda ? "cuda" : "cpu"}`);
}

export function downloads(env = process.env) {
  return path.join(cacheRoot(env), "downloads");
}
