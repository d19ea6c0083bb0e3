#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Builds the addon: cmake-js in build/cmake, then only the finished files where the loader and
// prebuildify look: build/Release/chatspace_steer.node (nothing else may lie there: prebuildify takes
// the first .node and every .so) and build/preload/chatspace_preload.node.
import { createHash } from "node:crypto";
import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ensureLibtorch } from "./lib/libtorch-get.mjs";
import { withLock } from "./lib/lock.mjs";
import { run, say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);

const usage = `Usage: node scripts/build-native.mjs [options]
  --out DIR        where the .node goes (default build/Release)
  --target NAME    build one CMake target only, copy nothing (e.g. chatspace_kernels)
  --tests          also build native/tests as build/cmake/chatspace_tests
  --run-tests      build and run them; arguments after -- are passed on
  --libtorch DIR   an unpacked libtorch (default: what scripts/fetch-libtorch.mjs finds)
  --debug          Debug build
  --clean          throw build/cmake away first
  --jobs N         compile jobs (default: cores, less when memory is short)
  -D NAME=VALUE    passed to CMake, repeatable`;

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      out: { type: "string" },
      target: { type: "string" },
      tests: { type: "boolean", default: false },
      "run-tests": { type: "boolean", default: false },
      libtorch: { type: "string" },
      debug: { type: "boolean", default: false },
      clean: { type: "boolean", default: false },
      jobs: { type: "string" },
      define: { type: "string", short: "D", multiple: true, default: [] },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  return { ...values, rest: positionals };
}

/** A torch file takes about 1.5 GiB to compile: too many at once ends in the out-of-memory killer. */
function defaultJobs() {
  const byMemory = Math.floor(os.freemem() / (1.5 * 2 ** 30));
  return Math.max(1, Math.min(os.availableParallelism(), byMemory));
}

/** Replaces a file in one step: a process that has the old one mapped keeps it intact. */
function install(from, to) {
  fs.mkdirSync(path.dirname(to), { recursive: true });
  const temporary = `${to}.${process.pid}`;
  fs.copyFileSync(from, temporary);
  fs.renameSync(temporary, to);
}

async function main() {
  const option = options();
  if (option.help) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  const buildDir = path.join(root, "build", option.debug ? "cmake-debug" : "cmake");
  // Two builds in one folder would overwrite each other's objects.
  await withLock(`${buildDir}.lock`, "native build", () => build(option, buildDir));
  if (option["run-tests"])
    await run(path.join(buildDir, "chatspace_tests"), option.rest, { stdio: "inherit" });
}

async function build(option, buildDir) {
  const libtorch = await ensureLibtorch({ root, libtorch: option.libtorch });

  const tests = option.tests || option["run-tests"];
  const defines = [
    `LIBTORCH_DIR=${libtorch.directory}`,
    ...(tests ? ["CHATSPACE_TESTS=ON"] : []),
    ...option.define,
  ];
  // Objects and the precompiled header hold another libtorch's headers: nothing of them can stay.
  const identity = `${fs.realpathSync(libtorch.directory)} ${libtorch.version} ${process.arch}`;
  const identityFile = path.join(buildDir, "libtorch-identity");
  const stale = readText(identityFile) !== null && readText(identityFile) !== identity;
  if (option.clean || stale) fs.rmSync(buildDir, { recursive: true, force: true });
  fs.mkdirSync(buildDir, { recursive: true });

  const cmakeJs = path.join(path.dirname(require.resolve("cmake-js/package.json")), "bin", "cmake-js");
  const common = ["-d", root, "-O", buildDir, "-B", option.debug ? "Debug" : "Release", "-l", "warn"];
  const configured = createHash("sha256").update(JSON.stringify(defines)).digest("hex");
  const configuredFile = path.join(buildDir, "configured-with");
  if (readText(configuredFile) !== configured || !fs.existsSync(path.join(buildDir, "CMakeCache.txt"))) {
    await run(process.execPath, [cmakeJs, "configure", ...common, ...defines.map((d) => `--CD${d}`)], {
      cwd: root,
    });
    fs.writeFileSync(identityFile, identity);
    fs.writeFileSync(configuredFile, configured);
  }
  const jobs = option.jobs ?? String(defaultJobs());
  const target = option.target ? ["-T", option.target] : [];
  await run(process.execPath, [cmakeJs, "build", ...common, "-p", jobs, ...target], { cwd: root });
  if (option.target) return;

  const out = path.resolve(root, option.out ?? (option.debug ? "build/Debug" : "build/Release"));
  const made = path.join(buildDir, "out");
  install(path.join(made, "chatspace_preload.node"), path.join(root, "build/preload/chatspace_preload.node"));
  const addon = path.join(made, "chatspace_steer.node");
  if (!fs.existsSync(addon)) throw new Error(`the build made no ${addon}`);
  install(addon, path.join(out, "chatspace_steer.node"));
  say(
    `built ${path.relative(root, path.join(out, "chatspace_steer.node"))} with libtorch ${libtorch.version}`,
  );
}

function readText(file) {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return null;
  }
}

main().catch((error) => {
  say(`build-native: ${error.message}`);
  process.exitCode = 1;
});
