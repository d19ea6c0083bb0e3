// SPDX-License-Identifier: Apache-2.0
// One result of a benchmark, as text and as a file. What stands in the documentation between
//
//   <!-- bench NAME -->  ...  <!-- end bench -->
//
// is bench/results/NAME.json rendered, and a unit test holds both together (tests/unit/bench-docs.test.ts).
// `--save` writes the file, `npm run bench:docs` then renews the pages.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import { machineLine, tableLines } from "./table.mjs";

const RESULTS = new URL("../results/", import.meta.url);
const MARK = /(<!-- bench ([\w-]+) -->\n)([\s\S]*?)(<!-- end bench -->)/g;

/**
 * Prints a result and, if asked for, keeps it.
 * @param result { name, addon, lines, tables: [{ caption?, header, rows }], notes?, samples? }: lines say what was
 *   run and against what, notes stand below the tables; samples, what the rows were computed from, are kept unseen
 */
export function publish({ name, addon, lines, tables, notes = [], samples }, { save = false } = {}) {
  const result = {
    name,
    date: new Date().toISOString(),
    machine: machineLine(addon),
    command: commandLine(),
    ...{ lines, tables: tables.map(asText), notes },
    ...(samples ? { samples } : {}),
  };
  process.stdout.write(render(result));
  if (!save) {
    console.log(`\n(not kept: --save writes bench/results/${name}.json)`);
    return;
  }
  mkdirSync(RESULTS, { recursive: true });
  writeFileSync(resultFile(name), `${JSON.stringify(result, null, 1)}\n`);
}

/** How it was started; a path is told by its last part alone, and keeping a result is no part of it. */
function commandLine() {
  const [script, ...rest] = process.argv.slice(1).map((part) => (isAbsolute(part) ? basename(part) : part));
  return ["node", `bench/${basename(script)}`, ...rest.filter((part) => part !== "--save")].join(" ");
}

const asText = ({ caption, header, rows }) => ({
  ...(caption ? { caption } : {}),
  ...{ header: header.map(String), rows: rows.map((row) => row.map(String)) },
});

/** Markdown of a result, ends with a newline. */
export function render({ machine, command, lines, tables, notes }) {
  const parts = [[machine, ...lines, `\`${command}\``].join("\n")];
  for (const { caption, header, rows } of tables) {
    if (caption) parts.push(caption);
    parts.push(tableLines(header, rows).join("\n"));
  }
  if (notes.length > 0) parts.push(notes.map((note) => `- ${note}`).join("\n"));
  return `${parts.join("\n\n")}\n`;
}

export function resultFile(name) {
  return fileURLToPath(new URL(`${name}.json`, RESULTS));
}

export function readResult(name) {
  return JSON.parse(readFileSync(resultFile(name), "utf8"));
}

/** Names of the results a page shows. */
export function marked(page) {
  return [...page.matchAll(MARK)].map((match) => match[2]);
}

/** The page with every marked part rendered anew. */
export function renewed(page, read = readResult) {
  return page.replace(MARK, (_, open, name, __, close) => `${open}${render(read(name))}${close}`);
}
