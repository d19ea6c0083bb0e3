// SPDX-License-Identifier: Apache-2.0
// Hundreds of damaged archives, ours and a stranger's: each is refused with a code of ours or runs. The
// process that loads them lives.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { child } from "./children.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "damaged-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

it.each([
  ["flips", "../golden/foreign/pair.pt", 300],
  ["flips", "../../models/stories260k.pt", 150],
  ["rewritten records", "../golden/foreign/pair.pt", 200],
])(
  "%s in %s: %i copies",
  async (kind, source, count) => {
    const ended = await child("mutations", {
      args: [here(source), String(count), kind],
      env: { MUTATION_FOLDER: folder, MUTATION_KEEP: join(folder, "last") },
      timeoutMs: 280_000,
    });
    expect(ended, ended.stderr.slice(-2000)).toMatchObject({ code: 0, signal: null });
    const { ends } = ended.told.at(-1) as { ends: Record<string, number> };
    console.log(kind, source, ends);
    const other = Object.keys(ends).filter(
      (end) => !/^(ran|ERR_ARCHIVE_\w+|ERR_LAYER_OUTPUT|request ERR_\w+)$/.test(end),
    );
    expect(other).toEqual([]);
    expect(Object.values(ends).reduce((a, b) => a + b)).toBe(count);
  },
  300_000,
);
