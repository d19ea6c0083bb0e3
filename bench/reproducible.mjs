// SPDX-License-Identifier: Apache-2.0
// What it costs that an answer is the same to the bit in any batch: the matrix products of the default
// model's layers by our batch-invariant kernels and by the library's (at::linear, MKL and oneDNN), in
// turns in one process, and how many rows the library changes when they run together.
//
//   npm run build:native -- --tests && npm run bench:reproducible
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { loadAddon } from "../dist/native/loader.js";
import { fixed, machineLine, printTable } from "./lib/table.mjs";

const tests = fileURLToPath(new URL("../build/cmake/chatspace_tests", import.meta.url));
const output = execFileSync(tests, ["--bench", "reproducible"], { encoding: "utf8" });
console.log(machineLine(loadAddon()));
console.log("all products of 30 layers of SmolLM2-135M, best of rounds in turns; rows: tokens of one step");
const rows = [];
for (const line of output.split("\n")) {
  const found = /^reproducible (\S+) (\d+) (\S+) (\S+) (\S+) (\S+)$/.exec(line.trim());
  if (!found) continue;
  const [, type, count, ours, library, oursChanged, libraryChanged] = found;
  rows.push([
    `${type === "Float" ? "float32" : "bfloat16"}, ${count} rows`,
    fixed(Number(ours), 2),
    fixed(Number(library), 2),
    `${fixed(Number(ours) / Number(library), 2)}x`,
    `${fixed(Number(oursChanged), 0)} %`,
    `${fixed(Number(libraryChanged), 0)} %`,
  ]);
}
if (rows.length === 0) throw new Error(`expected lines of figures from ${tests}, got:\n${output}`);
printTable(
  ["products", "ours ms", "library ms", "time, ours / library", "rows changed by company: ours", "library"],
  rows,
);
