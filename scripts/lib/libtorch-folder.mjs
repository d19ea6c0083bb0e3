// SPDX-License-Identifier: Apache-2.0
// What an unpacked libtorch is: its version, whether it is whole, whether this machine can use it.
import fs from "node:fs";
import path from "node:path";

export const DEFAULT_VERSION = "2.11.0";
/** Versions that were compiled, linked and run; a Python torch in this range is taken as it is. */
export const MIN_VERSION = [2, 11];
export const MAX_VERSION = [2, 15];

/** Libraries the addon links. Whatever else these need lies beside them or is found by their own rpath. */
export const LINKED = ["libc10.so", "libtorch_cpu.so"];

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
 * Reads a few small files only; `libtorch-verify.mjs` reads everything.
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
  const machine = elfMachine(path.join(directory, "lib/libc10.so"));
  const expected = ELF_MACHINE[process.arch];
  if (machine === null) return { problem: "lib/libc10.so is not an ELF library" };
  if (expected !== undefined && machine !== expected)
    return { problem: `lib/libc10.so is for ELF machine ${machine}, this is ${process.arch} (${expected})` };
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

function elfMachine(file) {
  const header = Buffer.alloc(20);
  const handle = fs.openSync(file, "r");
  try {
    if (fs.readSync(handle, header, 0, 20, 0) < 20 || header.toString("latin1", 0, 4) !== "\x7fELF") return null;
    return header.readUInt16LE(18);
  } finally {
    fs.closeSync(handle);
  }
}
