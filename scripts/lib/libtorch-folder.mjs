// SPDX-License-Identifier: Apache-2.0
// What an unpacked libtorch is: its version, whether it is whole, whether this machine can use it.
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { readElf } from "./elf.mjs";

export const DEFAULT_VERSION = "2.11.0";
/** Versions that were compiled, linked and run; a Python torch in this range is taken as it is. */
export const MIN_VERSION = [2, 11];
export const MAX_VERSION = [2, 15];

/** Libraries the addon links. Whatever else these need lies beside them or is found by their own rpath. */
export const LINKED = ["libc10.so", "libtorch_cpu.so"];

/** Libraries of the C and C++ runtime, which the system brings. */
const SYSTEM = /^(ld-linux|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|resolv|util|numa|atomic)\.so)/;

const ELF_MACHINE = { x64: 62, arm64: 183 };

/** "2.11.0+cu130" -> [2, 11, 0], or null. */
export function parseVersion(text) {
  const match = /(\d+)\.(\d+)(?:\.(\d+))?/.exec(text ?? "");
  return match ? [Number(match[1]), Number(match[2]), Number(match[3] ?? 0)] : null;
}

export function isSupported(version) {
  const parsed = parseVersion(version);
  if (!parsed) return false;
  const minor = parsed[0] * 1000 + parsed[1];
  return minor >= MIN_VERSION[0] * 1000 + MIN_VERSION[1] && minor <= MAX_VERSION[0] * 1000 + MAX_VERSION[1];
}

/**
 * Looks at a folder: { directory, version, cuda } or { problem } with the first thing that is wrong.
 * Reads a few small files only; `verifyHashes` reads everything.
 */
export function inspectLibtorch(directory) {
  if (!fs.existsSync(directory)) return { problem: "there is no such folder" };
  for (const file of ["include/torch/script.h", ...LINKED.map((name) => `lib/${name}`)]) {
    if (!fs.existsSync(path.join(directory, file))) return { problem: `${file} is missing` };
  }
  const version = headerVersion(directory);
  if (!version) return { problem: "its headers do not say which version they are" };
  if (!isSupported(version))
    return { problem: `version ${version}, expected ${MIN_VERSION.join(".")} to ${MAX_VERSION.join(".")}` };
  const problem = libraryProblem(directory);
  if (problem) return { problem };
  const cuda = fs.existsSync(path.join(directory, "lib/libtorch_cuda.so"));
  return { directory, version, cuda };
}

/** The version in the headers: a build-version file only says what somebody wrote into it. */
export function headerVersion(directory) {
  for (const file of ["torch/headeronly/version.h", "torch/version.h"]) {
    let text;
    try {
      text = fs.readFileSync(path.join(directory, "include", file), "utf8");
    } catch {
      continue;
    }
    const part = (name) => new RegExp(`#define TORCH_VERSION_${name} (\\d+)`).exec(text)?.[1];
    const parts = ["MAJOR", "MINOR", "PATCH"].map(part);
    if (parts.every((value) => value !== undefined)) return parts.join(".");
  }
  return null;
}

/**
 * Why the libraries of `directory` cannot be loaded here, or null: another machine's, damaged, a size
 * that differs from the manifest, or a library they need that is neither beside them, on their rpath
 * nor the system's.
 */
export function libraryProblem(directory) {
  const lib = path.join(directory, "lib");
  for (const [file, { bytes }] of Object.entries(readManifest(directory)?.files ?? {})) {
    const size = fs.statSync(path.join(directory, file), { throwIfNoEntry: false })?.size;
    if (size !== bytes) return `${file} has ${size ?? "no"} bytes, its manifest says ${bytes}`;
  }
  for (const name of LINKED) {
    const elf = readElf(path.join(lib, name));
    if (!elf) return `lib/${name} is not a whole 64-bit ELF library`;
    const expected = ELF_MACHINE[process.arch];
    if (expected !== undefined && elf.machine !== expected)
      return `lib/${name} is for ELF machine ${elf.machine}, this is ${process.arch} (${expected})`;
    // An rpath is relative to where the file really lies, and the folder may be a link.
    const origin = path.dirname(fs.realpathSync(path.join(lib, name)));
    const places = [lib, ...elf.searchPath.map((place) => place.replace(/\$ORIGIN|\$\{ORIGIN\}/g, origin))];
    for (const needed of elf.needed) {
      if (SYSTEM.test(needed)) continue;
      if (!places.some((place) => fs.existsSync(path.join(place, needed))))
        return `lib/${name} needs ${needed}, which is neither beside it nor on its rpath`;
    }
  }
  return null;
}

/** manifest.json that fetch-libtorch wrote, or null (a Python torch, a folder made by hand). */
export function readManifest(directory) {
  try {
    return JSON.parse(fs.readFileSync(path.join(directory, "manifest.json"), "utf8"));
  } catch {
    return null;
  }
}

/** Reads every library again: why its sha256 differs from the manifest's, or null. */
export async function verifyHashes(directory) {
  for (const [file, { sha256 }] of Object.entries(readManifest(directory)?.files ?? {})) {
    const hash = createHash("sha256");
    for await (const chunk of fs.createReadStream(path.join(directory, file), { highWaterMark: 2 ** 20 }))
      hash.update(chunk);
    const got = hash.digest("hex");
    if (got !== sha256) return `${file} has sha256 ${got}, its manifest says ${sha256}`;
  }
  return null;
}
