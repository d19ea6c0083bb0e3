#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Prints the tables of docs/architectures.md and docs/formats.md, with the built package (npm run build):
//
//   npm run table:families    every family against the reference implementation
//   npm run table:gguf        every GGUF element type against the `gguf` Python package
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { machineLine, printTable } from "../bench/lib/table.mjs";
import { measureFamily } from "./lib/family-parity.mjs";
import { compareTypes } from "./lib/gguf-parity.mjs";
import { findPython } from "./lib/python.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));

const usage = `Usage: node scripts/parity.mjs families|gguf [options]
  --references DIR  more checkpoints with golden.safetensors (default ../shared/golden/decoders)
  --elements N      of each GGUF type (default 1048576)
  --python PATH     a Python with numpy and gguf (default: CHATSPACE_TEST_PYTHON, build/python, python3)`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    references: { type: "string", default: join(root, "../shared/golden/decoders") },
    elements: { type: "string", default: "1048576" },
    python: { type: "string" },
    help: { type: "boolean", short: "h", default: false },
  },
});

const { loadAddon } = await import("../dist/native/loader.js");
const { readSafetensors } = await import("../dist/formats/safetensors.js");
const { toFloat32, toIntegers } = await import("../dist/formats/tensor.js");

/** Folders that hold an index.json of models. */
function references() {
  const folders = [resolve(values.references), join(root, "tests/golden/decoders")];
  return folders
    .filter((folder) => existsSync(join(folder, "index.json")))
    .flatMap((folder) => {
      const { models } = JSON.parse(readFileSync(join(folder, "index.json"), "utf8"));
      return readdirSync(folder)
        .filter((name) => Object.hasOwn(models, name))
        .map((name) => ({ name, folder: join(folder, name), ...models[name] }));
    });
}

async function families() {
  const { convert } = await import("../dist/model/convert.js");
  const { SteerModel } = await import("../dist/model/steer-model.js");
  const api = { convert, SteerModel, readSafetensors, toFloat32, toIntegers };
  const work = mkdtempSync(join(tmpdir(), "chatspace-parity-"));
  const rows = [];
  try {
    for (const reference of references()) {
      const found = await measureFamily(api, reference, join(work, `${reference.name}.pt`));
      const greedy = Object.values(found.greedy);
      rows.push([
        reference.name,
        `${found.metadata.architecture} (${found.metadata.family})`,
        found.logits.toExponential(1),
        found.hidden.toExponential(1),
        found.steeredLogits.toExponential(1),
        found.steeredHidden.toExponential(1),
        `${greedy.reduce((sum, run) => sum + run.equal, 0)} of ${greedy.reduce((sum, run) => sum + run.of, 0)}`,
      ]);
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  if (rows.length === 0) throw new Error(`no reference checkpoints in ${values.references}`);
  console.log(`${machineLine(loadAddon())}\n`);
  printTable(
    [
      "reference",
      "model_type (source)",
      "logits",
      "hidden",
      "steered logits",
      "steered hidden",
      "greedy tokens",
    ],
    rows,
  );
}

async function gguf() {
  const python = findPython(["numpy", "gguf"], values.python);
  if (!python) throw new Error("no Python with numpy and gguf was found (--python PATH)");
  const found = compareTypes(loadAddon(), { readSafetensors, toFloat32 }, python, Number(values.elements));
  console.log(`${machineLine(loadAddon())}; gguf ${found.version}\n`);
  printTable(
    ["type", "elements", "with other bits", "largest difference"],
    found.types.map(({ type, elements, differing, worst }) => [type, elements, differing, worst]),
  );
}

const command = { families, gguf }[positionals[0]];
if (values.help || !command) {
  console.log(usage);
  process.exitCode = values.help ? 0 : 2;
} else {
  await command();
}
