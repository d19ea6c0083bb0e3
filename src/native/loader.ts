// SPDX-License-Identifier: Apache-2.0
// The only file that opens a .node file. It finds the addon, makes sure libtorch is in the process
// before it (the addon's own rpath reaches vendor/libtorch only), checks the contract, and when
// anything fails says every path it tried, why each did not do, and what helps.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { EnvironmentError } from "../errors.ts";
import { CONTRACT_VERSION, type NativeAddon } from "./contract.ts";
import { addonPaths, type LibtorchPlace, libtorchPlaces, libtorchVersion, preloadPaths } from "./library.ts";
import { libraryDamage } from "./whole.ts";

const require = createRequire(import.meta.url);

const BUILD = "In a clone: `npm run build:native`; `npx chatspace-steer doctor` names what a build lacks.";
const FETCH =
  "Run `node scripts/fetch-libtorch.mjs` in the package's folder (it finds or downloads libtorch).";
const NAME_ADDON = "Name a built addon with CHATSPACE_ADDON=<path to chatspace_steer.node>.";
const NAME_LIBTORCH = "Name an unpacked libtorch with CHATSPACE_LIBTORCH=<folder that holds lib/>.";

/** What the addon links, in the order it must be opened. */
const LIBRARIES = ["libc10.so", "libtorch_cpu.so"];

interface Preload {
  /** Opens a shared library for the life of the process; null, or the dynamic loader's message. */
  open(path: string): string | null;
}

let loaded: NativeAddon | undefined;

/**
 * The addon, loaded once per thread.
 *
 * @throws EnvironmentError ERR_ADDON_MISSING, ERR_LIBTORCH_MISSING, ERR_ADDON_LOAD,
 * ERR_ADDON_CONTRACT, ERR_LIBTORCH_VERSION
 */
export function loadAddon(): NativeAddon {
  loaded ??= load();
  return loaded;
}

function load(): NativeAddon {
  const paths = addonPaths();
  const present = paths.filter((file) => fs.existsSync(file));
  if (present.length === 0)
    throw new EnvironmentError(
      "ERR_ADDON_MISSING",
      `The native addon is not there. Looked for:\n${list(paths)}`,
      {
        details: { tried: paths, platform: process.platform, arch: process.arch },
        remedies: [BUILD, NAME_ADDON],
      },
    );

  const places = libtorchPlaces();
  const libtorch = places.find((place) => place.found);
  if (!libtorch)
    throw new EnvironmentError(
      "ERR_LIBTORCH_MISSING",
      `libtorch (libtorch_cpu.so and libc10.so) is not there. Looked in:\n${list(
        places.map((place) => `${path.join(place.directory, "lib")} (${place.source})`),
      )}`,
      { details: { tried: places.map((place) => place.directory) }, remedies: [FETCH, NAME_LIBTORCH] },
    );

  const reasons: string[] = [];
  for (const file of present) {
    try {
      for (const library of [file, ...LIBRARIES.map((name) => path.join(libtorch.directory, "lib", name))]) {
        const damage = libraryDamage(library);
        if (damage !== null) throw new Error(`${library} ${damage}`);
      }
      if (!reachesByItself(file, libtorch)) preload(libtorch);
      return checked(require(file) as NativeAddon, file, libtorch);
    } catch (error) {
      if (error instanceof EnvironmentError) throw error;
      reasons.push(`${file}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new EnvironmentError("ERR_ADDON_LOAD", `The native addon cannot be loaded:\n${list(reasons)}`, {
    details: { tried: present, reasons, libtorch: libtorch.directory },
    remedies: remediesFor(reasons.join("\n"), libtorch),
  });
}

/** Whether the addon's rpath ($ORIGIN/../../vendor/libtorch/lib) leads to this very libtorch. */
function reachesByItself(file: string, libtorch: LibtorchPlace): boolean {
  const real = (directory: string) => {
    try {
      return fs.realpathSync(path.join(directory, "lib"));
    } catch {
      return null;
    }
  };
  const own = real(path.resolve(path.dirname(fs.realpathSync(file)), "../../vendor/libtorch"));
  return own !== null && own === real(libtorch.directory);
}

/** Opens libtorch where it lies; what these two need is beside them or on their own rpath. */
function preload(libtorch: LibtorchPlace): void {
  const file = preloadPaths().find((candidate) => fs.existsSync(candidate));
  if (!file) throw new Error(`chatspace_preload.node is missing (${preloadPaths().join(", ")})`);
  const { open } = require(file) as Preload;
  for (const name of LIBRARIES) {
    const problem = open(path.join(libtorch.directory, "lib", name));
    if (problem !== null) throw new Error(problem);
  }
}

function checked(addon: NativeAddon, file: string, libtorch: LibtorchPlace): NativeAddon {
  const contract = addon.versions?.contract;
  if (contract !== CONTRACT_VERSION)
    throw new EnvironmentError(
      "ERR_ADDON_CONTRACT",
      `${file}: expected an addon of contract ${CONTRACT_VERSION}, got ${contract ?? "none"}; ` +
        "it was built from other sources than this JavaScript.",
      { details: { file, expected: CONTRACT_VERSION, got: contract ?? null }, remedies: [BUILD, NAME_ADDON] },
    );
  // Another minor version may load, symbol by symbol, and then misread every object: C++ has no check of its own.
  const version = libtorchVersion(libtorch.directory);
  if (version !== null && minorOf(version) !== minorOf(addon.versions.torch))
    throw new EnvironmentError(
      "ERR_LIBTORCH_VERSION",
      `${file} was built with libtorch ${addon.versions.torch}, but ${libtorch.directory} (${libtorch.source}) is ${version}.`,
      {
        details: { file, expected: addon.versions.torch, got: version, directory: libtorch.directory },
        remedies: [
          `Get the right one: \`node scripts/fetch-libtorch.mjs --version ${addon.versions.torch}\`.`,
          "Or build the addon again with this one: `npm run build:native`.",
        ],
      },
    );
  return addon;
}

function minorOf(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}

function remediesFor(reasons: string, libtorch: LibtorchPlace): string[] {
  if (/GLIBC(XX)?_[\d.]+' not found/.test(reasons))
    return ["This system's C or C++ library is older than the binary wants: build it here.", BUILD];
  if (/undefined symbol/.test(reasons))
    return [
      `The libtorch in ${libtorch.directory} (${libtorch.source}) is probably another version than the addon was built with.`,
      "Build the addon again with it (`npm run build:native`), or point CHATSPACE_LIBTORCH at the right one.",
    ];
  if (/cannot open shared object file|lib(c10|torch_cpu)\.so is /.test(reasons))
    return [
      `The libtorch in ${libtorch.directory} is not whole: get a fresh one with \`node scripts/fetch-libtorch.mjs --force\`.`,
      NAME_LIBTORCH,
    ];
  if (/did not self-register|invalid ELF header|file too short|is cut off|is no ELF/.test(reasons))
    return [BUILD, NAME_ADDON];
  return [BUILD, FETCH];
}

function list(lines: readonly string[]): string {
  return lines.map((line) => `  ${line}`).join("\n");
}
