// SPDX-License-Identifier: Apache-2.0
// A Python for the checks that compare with Python packages. The product itself never runs one.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The first of `wanted`, CHATSPACE_TEST_PYTHON, build/python and python3 that has all packages, or null. */
export function findPython(packages, wanted) {
  const candidates = [
    wanted,
    process.env.CHATSPACE_TEST_PYTHON,
    join(root, "build/python/bin/python"),
    "python3",
  ];
  const code = `import ${packages.join(", ")}`;
  for (const python of candidates) {
    if (!python || (python.includes("/") && !existsSync(python))) continue;
    if (spawnSync(python, ["-c", code], { stdio: "ignore", timeout: 60_000 }).status === 0) return python;
  }
  return null;
}
