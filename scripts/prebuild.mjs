#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Makes prebuilds/<platform>-<arch>/ for the published package: prebuildify through the binding.gyp
// facade, then the preload addon beside it and the unstripped addon back in build/Release, whence
// prebuildify has moved it. Fails when the binary carries an absolute search path.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { readElf } from "./lib/elf.mjs";
import { run, say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const folder = path.join(root, "prebuilds", `${process.platform}-${process.arch}`);

try {
  // node-gyp wants Node's headers only to write its makefile: those installed with node save the download.
  const prefix = path.resolve(path.dirname(process.execPath), "..");
  const headers = fs.existsSync(path.join(prefix, "include/node/common.gypi"));
  const env = headers ? { ...process.env, npm_config_nodedir: prefix } : process.env;
  const prebuildify = path.join(root, "node_modules/prebuildify/bin.js");
  await run(process.execPath, [prebuildify, "--napi", "--strip"], { cwd: root, env });

  fs.mkdirSync(path.join(folder, "preload"), { recursive: true });
  const preload = path.join(folder, "preload/chatspace_preload.node");
  fs.copyFileSync(path.join(root, "build/preload/chatspace_preload.node"), preload);
  fs.mkdirSync(path.join(root, "build/Release"), { recursive: true });
  fs.copyFileSync(
    path.join(root, "build/cmake/out/chatspace_steer.node"),
    path.join(root, "build/Release/chatspace_steer.node"),
  );
  const addons = fs.readdirSync(folder).filter((name) => name.endsWith(".node"));
  if (addons.length !== 1)
    throw new Error(`${folder}: expected one .node, got ${addons.join(", ") || "none"}`);
  for (const file of [path.join(folder, addons[0]), preload]) {
    const absolute = readElf(file)?.searchPath.filter((place) => place.startsWith("/")) ?? [];
    if (absolute.length > 0) throw new Error(`${file} searches absolute paths: ${absolute.join(", ")}`);
    say(path.relative(root, file));
  }
} catch (error) {
  say(`prebuild: ${error.message}`);
  process.exitCode = 1;
}
