#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// `npm ci` refuses a lock file that leaves out an optional package of another platform, and
// `npm install` behind a registry that does not carry those packages writes just such a file. This finds
// the gaps; --fix fills them: version from the dependent, platform from the package's name.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const file = path.join(path.resolve(path.dirname(fileURLToPath(import.meta.url)), ".."), "package-lock.json");
const lock = JSON.parse(fs.readFileSync(file, "utf8"));
const packages = lock.packages;

const missing = [];
for (const [place, entry] of Object.entries(packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    if (packages[`node_modules/${name}`] || packages[`${place}/node_modules/${name}`]) continue;
    missing.push({ place, name, version, dev: entry.dev === true });
  }
}

if (missing.length === 0) process.stderr.write("lockfile: every optional package has its entry\n");
else if (process.argv.includes("--fix")) {
  for (const { name, version, dev } of missing) {
    if (!/^\d+\.\d+\.\d+/.test(version)) throw new Error(`${name}: ${version} is no exact version`);
    const find = (choices) => choices.filter((choice) => new RegExp(`[-/]${choice}(-|$)`).test(name));
    const os = find(["android", "darwin", "linux", "win32", "freebsd", "openharmony"]);
    const cpu = find(["arm64", "x64", "arm", "ia32", "ppc64", "s390x", "riscv64"]);
    packages[`node_modules/${name}`] = {
      version,
      ...(cpu.length > 0 ? { cpu } : {}),
      ...(dev ? { dev: true } : {}),
      ...(name.endsWith("-musl") ? { libc: ["musl"] } : {}),
      optional: true,
      ...(os.length > 0 ? { os } : {}),
    };
  }
  const root = packages[""];
  delete packages[""];
  const sorted = Object.keys(packages).sort((a, b) => a.localeCompare(b, "en"));
  lock.packages = { "": root, ...Object.fromEntries(sorted.map((key) => [key, packages[key]])) };
  fs.writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  process.stderr.write(`lockfile: added ${missing.map(({ name }) => name).join(", ")}\n`);
} else {
  for (const { place, name, version } of missing)
    process.stderr.write(
      `lockfile: ${name}@${version}, optional for ${place || "the package"}, has no entry\n`,
    );
  process.stderr.write("lockfile: run `node scripts/check-lockfile.mjs --fix`\n");
  process.exitCode = 1;
}
