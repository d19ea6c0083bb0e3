// SPDX-License-Identifier: Apache-2.0
// The first command of the README in a fresh clone of what is committed, and the binary that a release
// would publish from it. Needs git, the npm registry, and libtorch in the cache or to be downloaded.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";

const root = path.resolve(import.meta.dirname, "../..");
/** On two cores. */
const LIMIT_MS = 10 * 60_000;

let clone: string;
const run = (command: string, args: string[], env: Record<string, string> = {}) =>
  execFileSync(command, args, {
    cwd: clone,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, CHATSPACE_ADDON: "", CHATSPACE_SKIP_BUILD: "", ...env },
  });

beforeAll(() => {
  clone = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "clone-")), "chatspace-steer");
  execFileSync("git", ["clone", "--quiet", root, clone]);
});
afterAll(() => fs.rmSync(path.dirname(clone), { recursive: true, force: true }));

it("installs, gets libtorch, builds and runs in under ten minutes", () => {
  const started = Date.now();
  run("npm", ["ci", "--no-audit", "--no-fund"]);
  const checks = JSON.parse(run("npx", ["chatspace-steer", "doctor", "--json"])) as unknown;
  expect(JSON.stringify(checks)).toContain("addon");
  const ms = Date.now() - started;
  console.log(`npm ci and doctor took ${(ms / 1000).toFixed(0)} s`);
  expect(ms).toBeLessThan(LIMIT_MS);
});

it("does nothing when it is prepared again", () => {
  const started = Date.now();
  run("npm", ["run", "--silent", "prepare"]);
  expect(Date.now() - started).toBeLessThan(10_000);
});

it("makes a prebuilt binary that loads", () => {
  run("npm", ["run", "--silent", "prebuild:binary"]);
  const folder = path.join(clone, "prebuilds", `${process.platform}-${process.arch}`);
  expect(fs.readdirSync(folder).sort()).toEqual(["chatspace-steer.node", "preload"]);
  const code = `const { loadAddon } = await import(${JSON.stringify(path.join(clone, "dist/native/loader.js"))});
    console.log(loadAddon().versions.torch);`;
  const addon = path.join(folder, "chatspace-steer.node");
  expect(run(process.execPath, ["--input-type=module", "-e", code], { CHATSPACE_ADDON: addon })).toMatch(
    /^2\.\d+/,
  );
  // Without vendor/libtorch the preload addon of the same folder must do.
  const vendor = path.join(clone, "vendor/libtorch");
  const libtorch = fs.realpathSync(vendor);
  fs.rmSync(vendor);
  fs.rmSync(path.join(clone, "build"), { recursive: true, force: true });
  const env = { CHATSPACE_ADDON: "", CHATSPACE_LIBTORCH: libtorch };
  expect(run(process.execPath, ["--input-type=module", "-e", code], env)).toMatch(/^2\.\d+/);
});
