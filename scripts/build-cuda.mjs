#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Builds the CUDA half, build/cuda/chatspace_cuda.so, on any Linux machine: no GPU, no driver, no CUDA
// toolkit needed. What it makes has been compiled and linked, nothing more: scripts/gpu-check.mjs runs it.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ensureCudaLibtorch } from "./lib/cuda-libtorch.mjs";
import { ensureNvcc } from "./lib/cuda-toolkit.mjs";
import { readElf } from "./lib/elf.mjs";
import { withLock } from "./lib/lock.mjs";
import { capture, run, say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

const usage = `Usage: node scripts/build-cuda.mjs [options]
  --out DIR        where chatspace_cuda.so goes (default build/cuda)
  --arch LIST      compute capabilities without dot (default 80,90; the last also as PTX for newer GPUs)
  --nvcc FILE      this compiler (default: a toolkit's of libtorch's CUDA version, else NVIDIA's wheels)
  --libtorch DIR   an unpacked libtorch with CUDA (default: one of the addon's version that is here or got)
  --torch X.Y.Z    libtorch version to build for (default: the version the addon is built with)
  --offline        download nothing
  --clean          throw build/cuda/cmake away first
  --jobs N         compile jobs (default: cores)
  -D NAME=VALUE    passed to CMake, repeatable`;

async function main() {
  const { values: option } = parseArgs({
    options: {
      out: { type: "string", default: "build/cuda" },
      arch: { type: "string", default: "80,90" },
      nvcc: { type: "string" },
      libtorch: { type: "string" },
      torch: { type: "string" },
      offline: { type: "boolean", default: false },
      clean: { type: "boolean", default: false },
      jobs: { type: "string", default: String(os.availableParallelism()) },
      define: { type: "string", short: "D", multiple: true, default: [] },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (option.help) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  if (!/^\d+[af]?(,\d+[af]?)*$/.test(option.arch))
    throw new Error(`--arch: expected capabilities such as 80,90, got "${option.arch}"`);
  if (process.platform !== "linux")
    throw new Error(`the CUDA half is built on Linux, this is ${process.platform}`);
  const libtorch = await ensureCudaLibtorch({ root, ...option, version: option.torch });
  const compiler = await ensureNvcc({ ...option, major: libtorch.cudaMajor });
  say(
    `libtorch ${libtorch.version} (CUDA ${libtorch.cudaMajor}, ${libtorch.source}), nvcc ${compiler.version} (${compiler.source})`,
  );
  const buildDir = path.join(root, "build", "cuda", "cmake");
  await withLock(`${buildDir}.lock`, "CUDA build", () => build(option, libtorch, compiler, buildDir));
}

async function build(option, libtorch, compiler, buildDir) {
  // Objects hold headers of one libtorch and one compiler.
  const identity = JSON.stringify([
    fs.realpathSync(libtorch.directory),
    libtorch.version,
    compiler.nvcc,
    compiler.version,
  ]);
  const identityFile = path.join(buildDir, "identity");
  const stale = fs.existsSync(identityFile) && fs.readFileSync(identityFile, "utf8") !== identity;
  if (option.clean || stale) fs.rmSync(buildDir, { recursive: true, force: true });
  fs.mkdirSync(buildDir, { recursive: true });
  const ninja = await capture("ninja", ["--version"]);
  const defines = [
    "CMAKE_BUILD_TYPE=Release",
    "CHATSPACE_CUDA=ON",
    `LIBTORCH_DIR=${libtorch.directory}`,
    `CHATSPACE_NVCC=${compiler.nvcc}`,
    `CHATSPACE_CUDA_RUNTIME=${compiler.runtime ?? ""}`,
    `CHATSPACE_CUDA_ARCHS=${option.arch.replaceAll(",", ";")}`,
    ...option.define,
  ];
  await run("cmake", [
    ...["-S", root, "-B", buildDir, ...(ninja.ok ? ["-G", "Ninja"] : [])],
    ...["--log-level=WARNING", ...defines.map((define) => `-D${define}`)],
  ]);
  fs.writeFileSync(identityFile, identity);
  await run("cmake", ["--build", buildDir, "--target", "chatspace_cuda", "--parallel", option.jobs]);

  const made = path.join(buildDir, "out", "chatspace_cuda.so");
  checkLibrary(made);
  const to = path.join(path.resolve(root, option.out), "chatspace_cuda.so");
  fs.mkdirSync(path.dirname(to), { recursive: true });
  // In one step: a process that has the old one mapped keeps it whole.
  fs.copyFileSync(made, `${to}.${process.pid}`);
  fs.renameSync(`${to}.${process.pid}`, to);
  const targets = option.arch.split(",").map((arch) => `sm_${arch}`);
  const size = (fs.statSync(to).size / 1e6).toFixed(1);
  say(
    `built ${path.relative(root, to)} (${size} MB) for ${targets.join(", ")} and PTX, libtorch ${libtorch.version}`,
  );
}

/** It must ask for the CUDA libtorch by name and must not know this machine's folders. */
function checkLibrary(file) {
  const elf = readElf(file);
  if (!elf) throw new Error(`the build made no whole ${file}`);
  for (const name of ["libtorch_cuda.so", "libc10_cuda.so", "libtorch_cpu.so", "libc10.so"]) {
    if (!elf.needed.includes(name)) throw new Error(`${file} does not ask for ${name}`);
  }
  const absolute = elf.searchPath.filter((place) => !place.startsWith("$ORIGIN"));
  if (absolute.length > 0) throw new Error(`${file} looks for libraries in ${absolute.join(", ")}`);
}

main().catch((error) => {
  say(`build-cuda: ${error.message}`);
  process.exitCode = error.code?.startsWith?.("ERR_PARSE_ARGS") ? 2 : 1;
});
