// SPDX-License-Identifier: Apache-2.0
// What this package needs of a machine, checked one by one, each with what was found and, where it falls
// short, one sentence on what to do. The addon and onnxruntime-node are tried in a child process: a
// binary that crashes must not take the doctor with it.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import {
  addonPaths,
  cacheRoot,
  type LibtorchPlace,
  libtorchPlaces,
  libtorchVersion,
  packageRoot,
} from "./library.ts";
import { type Answer, ask } from "./probe.ts";

export interface DoctorCheck {
  /** "node", "cmake", "compiler", ... stable, for scripts. */
  name: string;
  ok: boolean;
  /** Whether the package cannot run, as it stands here, without it. The rest is said for information. */
  required: boolean;
  /** What is there, or why it does not do. */
  found: string;
  /** What to do about it; null when ok. */
  remedy: string | null;
}

/** What the addon says of itself, told by the child process that loaded it. */
interface AddonReport {
  versions: { addon: string; torch: string; napi: number; contract: number };
  machine: { isa: string; cores: number; cuda: { index: number; name: string; bytes: number }[] };
}

const GIB = 2 ** 30;
/** Unpacked libtorch, the default model and its archive. */
const DISK_NEEDED = 3 * GIB;
const MEMORY_NEEDED = 2 * GIB;

/** Runs every check but that of the models, which the command adds; never throws. A few seconds, most of them for the addon and the compiler. */
export async function runDoctor(): Promise<DoctorCheck[]> {
  const addon = await checkAddon();
  const libtorch = libtorchPlaces().find((place) => place.found);
  // What only a build or a download needs is not required where nothing is left to build or download.
  const mustBuild = !addon.check.ok;
  const mustDownload = libtorch === undefined;
  return [
    checkNode(),
    await checkNpm(),
    await checkCmake(mustBuild),
    await checkCompiler(mustBuild),
    await checkPython(mustDownload),
    checkLibtorch(libtorch),
    addon.check,
    checkProcessor(addon.report),
    checkMemory(),
    checkDisk(),
    await checkCuda(addon.report),
    await checkOnnxruntime(),
  ];
}

function passed(name: string, found: string, required = true): DoctorCheck {
  return { name, ok: true, required, found, remedy: null };
}

function failed(name: string, found: string, remedy: string, required = true): DoctorCheck {
  return { name, ok: false, required, found, remedy };
}

function checkNode(): DoctorCheck {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const found = `${process.version} on ${process.platform}-${process.arch}`;
  return major > 20 || (major === 20 && minor >= 19)
    ? passed("node", found)
    : failed("node", found, "Install Node.js 20.19 or newer.");
}

async function checkNpm(): Promise<DoctorCheck> {
  const npm = await ask("npm", ["--version"]);
  return npm.ok
    ? passed("npm", npm.output, false)
    : failed("npm", npm.output, "Install npm 10 or newer.", false);
}

async function checkCmake(required: boolean): Promise<DoctorCheck> {
  const remedy = "Install CMake 3.22 or newer (Debian: apt-get install cmake; or pip install cmake).";
  const cmake = await ask("cmake", ["--version"]);
  const version = /version (\d+)\.(\d+)/.exec(cmake.output);
  if (!cmake.ok || !version) return failed("cmake", cmake.output, remedy, required);
  const fits = Number(version[1]) > 3 || (Number(version[1]) === 3 && Number(version[2]) >= 22);
  return fits
    ? passed("cmake", firstLine(cmake.output), required)
    : failed("cmake", firstLine(cmake.output), remedy, required);
}

async function checkCompiler(required: boolean): Promise<DoctorCheck> {
  const remedy = "Install a C++20 compiler, GCC 11 or Clang 14 or newer (Debian: apt-get install g++).";
  const compiler = process.env.CXX || "c++";
  const source =
    "#include <concepts>\n#include <span>\nint main() { return std::span<int>{}.empty() ? 0 : 1; }\n";
  const compiled = await ask(compiler, ["-std=c++20", "-fsyntax-only", "-x", "c++", "-"], { input: source });
  if (!compiled.ok) return failed("compiler", `${compiler}: ${compiled.output}`, remedy, required);
  return passed("compiler", firstLine((await ask(compiler, ["--version"])).output), required);
}

async function checkPython(required: boolean): Promise<DoctorCheck> {
  const python = process.env.CHATSPACE_PYTHON || "python3";
  const pip = await ask(python, ["-m", "pip", "--version"]);
  return pip.ok
    ? passed("pip", `${pip.output.replace(/ from .*\(/, " (")}; used for downloads only`, required)
    : failed(
        "pip",
        pip.output,
        "Install Python 3 with pip (Debian: apt-get install python3-pip); it is used to download libtorch, never at run time.",
        required,
      );
}

function checkLibtorch(place: LibtorchPlace | undefined): DoctorCheck {
  if (place)
    return passed(
      "libtorch",
      `${libtorchVersion(place.directory) ?? "of unknown version"} in ${place.directory} (${place.source})`,
    );
  const looked = libtorchPlaces().map(({ directory }) => directory);
  return failed(
    "libtorch",
    `not in ${looked.join(", ")}`,
    "Run `node scripts/fetch-libtorch.mjs`, or name an unpacked one with CHATSPACE_LIBTORCH.",
  );
}

async function checkAddon(): Promise<{ check: DoctorCheck; report: AddonReport | null }> {
  const file = addonPaths().find((candidate) => fs.existsSync(candidate));
  if (!file)
    return {
      check: failed("addon", `not in ${addonPaths().join(", ")}`, "Run `npm run build:native`."),
      report: null,
    };
  const answer = await inChild(
    `const { loadAddon } = await import(process.argv[1]);
     const addon = loadAddon();
     const { writeSync } = await import("node:fs");
     writeSync(1, JSON.stringify({ versions: addon.versions, machine: addon.machine() }));`,
    // The child is plain Node, which cannot read the TypeScript of a source tree.
    [pathToFileURL(path.join(packageRoot, "dist", "native", "loader.js")).href],
  );
  const report = answer.ok ? parseReport(answer.output) : null;
  if (!report)
    return {
      check: failed(
        "addon",
        `${file}: ${answer.output}`,
        "Build it again with `npm run build:native`; if libtorch is named above as missing, get that first.",
      ),
      report: null,
    };
  const { addon, torch, napi, contract } = report.versions;
  const found = `${addon} for libtorch ${torch}, Node-API ${napi}, contract ${contract} (${file})`;
  return { check: passed("addon", found), report };
}

function parseReport(text: string): AddonReport | null {
  try {
    return JSON.parse(text) as AddonReport;
  } catch {
    return null;
  }
}

function checkProcessor(report: AddonReport | null): DoctorCheck {
  const cores = report?.machine.cores ?? os.availableParallelism();
  const model = os.cpus()[0]?.model.trim() || "processor";
  const isa = report ? `, kernels for ${report.machine.isa}` : "";
  return passed("processor", `${model}, ${cores} ${cores === 1 ? "core" : "cores"} usable${isa}`, false);
}

function checkMemory(): DoctorCheck {
  // A container's limit, where there is one, is what counts.
  const limit = process.constrainedMemory();
  const total = limit > 0 && limit < os.totalmem() ? limit : os.totalmem();
  const found = `${gib(total)} in all, ${gib(process.availableMemory())} free`;
  return process.availableMemory() >= MEMORY_NEEDED
    ? passed("memory", found, false)
    : failed(
        "memory",
        found,
        "Free some memory: the default model needs about 1 GiB, a build about 2 GiB.",
        false,
      );
}

function checkDisk(): DoctorCheck {
  let folder = cacheRoot();
  while (!fs.existsSync(folder)) folder = path.dirname(folder);
  try {
    const { bavail, bsize } = fs.statfsSync(folder);
    const found = `${gib(bavail * bsize)} free at ${cacheRoot()}`;
    return bavail * bsize >= DISK_NEEDED
      ? passed("disk", found, false)
      : failed(
          "disk",
          found,
          "Free some disk space, or put the cache elsewhere with CHATSPACE_CACHE.",
          false,
        );
  } catch (error) {
    return failed(
      "disk",
      `${folder}: ${(error as Error).message}`,
      "Name a cache with CHATSPACE_CACHE.",
      false,
    );
  }
}

/** A GPU is never needed: this check always passes and only tells. */
async function checkCuda(report: AddonReport | null): Promise<DoctorCheck> {
  const devices = report?.machine.cuda ?? [];
  if (devices.length > 0)
    return passed(
      "cuda",
      devices.map(({ index, name, bytes }) => `cuda:${index} ${name}, ${gib(bytes)}`).join("; "),
      false,
    );
  const smi = await ask("nvidia-smi", [
    "--query-gpu=name,memory.total,driver_version",
    "--format=csv,noheader",
  ]);
  const nvcc = await ask("nvcc", ["--version"]);
  const compiler = nvcc.ok ? `nvcc ${/release ([\d.]+)/.exec(nvcc.output)?.[1] ?? ""}` : "no nvcc";
  if (!smi.ok)
    return passed("cuda", `no NVIDIA GPU (${smi.output}), ${compiler}: models run on the CPU`, false);
  return passed(
    "cuda",
    `${smi.output.split("\n").join("; ")}, ${compiler}; to use it: node scripts/fetch-libtorch.mjs --cuda, npm run build:cuda`,
    false,
  );
}

async function checkOnnxruntime(): Promise<DoctorCheck> {
  const answer = await inChild(
    `const { createRequire } = await import("node:module");
     const require = createRequire(process.argv[1]);
     require("onnxruntime-node");
     require("node:fs").writeSync(1, require("onnxruntime-node/package.json").version);`,
    [path.join(packageRoot, "package.json")],
  );
  return answer.ok
    ? passed("onnxruntime-node", answer.output, false)
    : failed(
        "onnxruntime-node",
        answer.output,
        "Run `npm install` again; it is needed for ONNX sentence encoders only.",
        false,
      );
}

function inChild(code: string, args: string[]): Promise<Answer> {
  return ask(process.execPath, ["--input-type=module", "-e", code, ...args], { timeoutMs: 60_000 });
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`;
}

function firstLine(text: string): string {
  return text.split("\n")[0] ?? "";
}
