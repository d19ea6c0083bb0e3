// SPDX-License-Identifier: Apache-2.0
// The package as npm would publish it: what is in it, whether it can be imported and required, whether
// its program starts where it is installed.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = path.resolve(import.meta.dirname, "../..");
const built =
  fs.existsSync(path.join(root, "dist/index.js")) && fs.existsSync(path.join(root, "dist/cli/main.js"));
const manifest = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8"));

let folder: string;
let installed: string;
let files: string[];
let unpackedBytes: number;

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "package-"));
  if (!built) return;
  const output = execFileSync("npm", ["pack", "--json", "--pack-destination", folder], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    env: { ...process.env, CHATSPACE_SKIP_BUILD: "1" },
  });
  // Newer npm gives an object keyed by package name, older npm an array.
  const answer = JSON.parse(output.slice(output.search(/^[[{]/m)));
  const [pack] = Object.values(answer) as [
    { filename: string; unpackedSize: number; files: { path: string }[] },
  ];
  files = pack.files.map((file) => file.path);
  unpackedBytes = pack.unpackedSize;
  installed = path.join(folder, "node_modules/chatspace-steer");
  fs.mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", path.join(folder, pack.filename), "-C", installed, "--strip-components=1"]);
  for (const name of Object.keys(manifest.dependencies)) {
    const place = path.join(folder, "node_modules", name);
    fs.mkdirSync(path.dirname(place), { recursive: true });
    fs.symlinkSync(path.join(root, "node_modules", name), place);
  }
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const node = (...args: string[]) =>
  execFileSync(process.execPath, args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

describe.skipIf(!built)("the packed package", () => {
  it("has what it needs and nothing of the workshop", () => {
    for (const needed of [
      "LICENSE",
      "dist/index.js",
      "dist/index.d.ts",
      "dist/cli/main.js",
      "scripts/fetch-libtorch.mjs",
      "scripts/build-native.mjs",
      "CMakeLists.txt",
      "binding.gyp",
      "native/addon.cc",
    ])
      expect(files).toContain(needed);
    const strangers = files.filter((file) =>
      /^(vendor|build|tests|\.ci|node_modules)\/|\.so(\.|$)|\.log$/.test(file),
    );
    expect(strangers).toEqual([]);
    expect(unpackedBytes).toBeLessThan(40e6);
  });

  it("runs no script when it is installed", () => {
    for (const hook of ["preinstall", "install", "postinstall"])
      expect(manifest.scripts[hook]).toBeUndefined();
    expect(manifest.gypfile).toBe(false);
  });

  it("passes publint", async () => {
    const { messages } = await publint({ pkgDir: installed, strict: true, pack: false });
    expect(messages.map((message) => formatMessage(message, manifest, { color: false }))).toEqual([]);
  });

  it("can be imported and required", () => {
    const names = node(
      "--input-type=module",
      "-e",
      "console.log(Object.keys(await import('chatspace-steer')).join())",
    );
    expect(names).toContain("SteerModel");
    const required = node("-e", "console.log(Object.keys(require('chatspace-steer')).join())");
    expect(required).toBe(names);
  });

  it("has a program that starts", () => {
    const program = path.join(installed, manifest.bin["chatspace-steer"]);
    expect(fs.statSync(program).mode & 0o111).not.toBe(0);
    expect(node(program, "--version").trim()).toBe(manifest.version);
  });
});
