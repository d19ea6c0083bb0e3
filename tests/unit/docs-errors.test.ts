// SPDX-License-Identifier: Apache-2.0
// Every code that can be thrown has a heading in docs/errors.md, and no heading is of a code that is gone.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
// Codes of Node itself, and the name under which --json reports an error that has none.
const NOT_OURS = new Set([
  "ERR_INVALID_ARG_TYPE",
  "ERR_INVALID_URL",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_PREMATURE_CLOSE",
  "ERR_FAILED",
]);

function sources(folder: string, endings: RegExp): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return name === "tests" ? [] : sources(path, endings);
    return endings.test(name) ? [path] : [];
  });
}

function codesIn(paths: readonly string[]): Set<string> {
  const codes = new Set<string>();
  for (const path of paths)
    for (const [, code] of readFileSync(path, "utf8").matchAll(/"(ERR_[A-Z0-9_]*[A-Z0-9])"/g))
      codes.add(code!);
  for (const code of NOT_OURS) codes.delete(code);
  return codes;
}

const thrown = codesIn([
  ...sources(join(root, "src"), /\.ts$/),
  ...sources(join(root, "native"), /\.(cc|h|cu|cuh)$/),
]);
const headings = new Set(
  [...readFileSync(join(root, "docs/errors.md"), "utf8").matchAll(/^### (ERR_[A-Z0-9_]+)$/gm)].map(
    (m) => m[1]!,
  ),
);

test("every code has a heading", () => {
  expect([...thrown].filter((code) => !headings.has(code)).sort()).toEqual([]);
});

test("every heading has a code", () => {
  expect([...headings].filter((code) => !thrown.has(code)).sort()).toEqual([]);
});
