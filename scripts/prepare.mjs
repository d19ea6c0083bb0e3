#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The package's own `prepare`: after `npm ci` in a clone it gets libtorch and builds the addon and the
// TypeScript. It also runs on `npm pack`, `npm publish` and `npx` in the clone, where nothing may have
// changed: then it ends at once. CHATSPACE_SKIP_BUILD=1 leaves everything out.
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { run, say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const PROGRAM = "chatspace-steer";
const stamp = path.join(root, "build", "prepared");
/** What the results are made from, and the results. */
const INPUTS = [
  "package.json",
  "package-lock.json",
  "tsconfig.json",
  "CMakeLists.txt",
  "cmake",
  "native",
  "scripts",
  "src",
];
const OUTPUTS = [
  "build/Release/chatspace_steer.node",
  "build/preload/chatspace_preload.node",
  "dist/cli/main.js",
];

function fingerprint() {
  const hash = createHash("sha256").update(`${process.arch} ${process.env.CHATSPACE_LIBTORCH ?? ""}\n`);
  const visit = (file) => {
    const stat = fs.statSync(path.join(root, file), { throwIfNoEntry: false });
    if (!stat) return;
    if (!stat.isDirectory()) {
      hash.update(`${file} `).update(fs.readFileSync(path.join(root, file)));
      return;
    }
    for (const name of fs.readdirSync(path.join(root, file)).sort()) visit(`${file}/${name}`);
  };
  for (const input of INPUTS) visit(input);
  return hash.digest("hex");
}

/** Older npm finds a package's own program only here; newer npm then need not install the clone anew. */
function linkProgram() {
  const bin = path.join(root, "node_modules/.bin");
  if (process.platform === "win32" || !fs.existsSync(bin)) return;
  const place = path.join(bin, PROGRAM);
  fs.rmSync(place, { force: true });
  fs.symlinkSync("../../dist/cli/main.js", place);
}

async function main() {
  if (process.env.CHATSPACE_SKIP_BUILD === "1") {
    say("CHATSPACE_SKIP_BUILD=1: libtorch, addon and TypeScript are left as they are");
    return;
  }
  if (!fs.existsSync(path.join(root, "node_modules/cmake-js"))) {
    // npm install --omit=dev in a clone: the tools are not there, and were not wanted.
    say("development dependencies are absent: nothing is built");
    return;
  }
  const whole = OUTPUTS.every((file) => fs.existsSync(path.join(root, file)));
  // npx in the clone comes by here before every command: it runs what is built, edits or not.
  if (whole && process.env.npm_command === "exec") return;
  const now = fingerprint();
  const libtorch = fs.existsSync(path.join(root, "vendor/libtorch/lib/libtorch_cpu.so"));
  if (whole && libtorch && fs.existsSync(stamp) && fs.readFileSync(stamp, "utf8") === now) {
    linkProgram();
    return;
  }
  const script = (name) => run(process.execPath, [path.join(root, "scripts", name)], { cwd: root });
  await script("build-ts.mjs");
  await script("build-native.mjs");
  fs.writeFileSync(stamp, now);
  linkProgram();
}

main().catch((error) => {
  say(`prepare: ${error.message}`);
  say(
    "`npx chatspace-steer doctor` names what is missing; CHATSPACE_SKIP_BUILD=1 installs without building.",
  );
  process.exitCode = 1;
});
