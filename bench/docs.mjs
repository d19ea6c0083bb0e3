// SPDX-License-Identifier: Apache-2.0
// Renews the tables in README.md and docs/performance.md from bench/results (`npm run bench:docs`). With
// --check it only tells which pages differ.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { marked, renewed } from "./lib/report.mjs";

let differ = 0;
for (const name of ["README.md", "docs/performance.md"]) {
  const file = fileURLToPath(new URL(`../${name}`, import.meta.url));
  const before = readFileSync(file, "utf8");
  const after = renewed(before);
  const state = before === after ? "as it was" : process.argv.includes("--check") ? "DIFFERS" : "renewed";
  if (before !== after) differ++;
  if (state === "renewed") writeFileSync(file, after);
  console.log(`${name}: ${marked(before).join(", ") || "no marked table"}: ${state}`);
}
process.exitCode = differ > 0 && process.argv.includes("--check") ? 1 : 0;
