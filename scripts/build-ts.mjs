#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Compiles src/ to dist/: into a folder beside it that then takes its place, so that a command that is
// running, or a build that fails, never sees half a dist. Files that tsc does not carry are copied.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { run, say } from "./lib/run.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const dist = path.join(root, "dist");
const fresh = path.join(root, "build", `dist-${process.pid}`);
const ASSETS = /\.(html|css|svg|json|torchscript|txt)$/;

try {
  fs.rmSync(fresh, { recursive: true, force: true });
  await run(
    process.execPath,
    [path.join(root, "node_modules/typescript/bin/tsc"), "-p", root, "--outDir", fresh],
    {
      cwd: root,
    },
  );
  for (const name of fs.readdirSync(path.join(root, "src"), { recursive: true })) {
    if (!ASSETS.test(name)) continue;
    fs.mkdirSync(path.dirname(path.join(fresh, name)), { recursive: true });
    fs.copyFileSync(path.join(root, "src", name), path.join(fresh, name));
  }
  const program = path.join(fresh, "cli/main.js");
  if (fs.existsSync(program)) fs.chmodSync(program, 0o755);
  const old = `${fresh}-old`;
  if (fs.existsSync(dist)) fs.renameSync(dist, old);
  fs.renameSync(fresh, dist);
  fs.rmSync(old, { recursive: true, force: true });
} catch (error) {
  say(`build-ts: ${error.message}`);
  process.exitCode = 1;
} finally {
  fs.rmSync(fresh, { recursive: true, force: true });
}
