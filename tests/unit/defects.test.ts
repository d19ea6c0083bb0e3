// SPDX-License-Identifier: Apache-2.0
// The list of defects in docs/numerics.md against the tests: each number has a test of that name, in the
// very files the list names.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

test("each defect of the list is named by a test in the files it names", () => {
  const rows = [...read("docs/numerics.md").matchAll(/^\| (\d+) \| .* \| (.*) \|$/gm)];
  expect(rows.map(([, number]) => Number(number))).toEqual(Array.from({ length: 11 }, (_, i) => i + 1));
  for (const [, number, files] of rows) {
    const named = [...files!.matchAll(/tests\/[\w./-]+\.ts/g)].map(([path]) => path);
    expect(named.length, `defect ${number}`).toBeGreaterThan(0);
    for (const path of named) expect(read(path), path).toMatch(new RegExp(`"[^"]*defect ${number}\\b`));
  }
});
