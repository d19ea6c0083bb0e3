#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Compares src/native/contract.ts and contract/ with the addon: what it exports, the shape of versions and machine(),
// and, on the model in models/, the members of a loaded model and of its info. Either side having more
// or less than the other is a failure: the contract is the only description of the boundary.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const loader = path.join(root, "dist/native/loader.js");
const problems = [];

/** Members of `interface NAME { ... }`: name -> "method" | "value". */
export function interfaceMembers(source, name) {
  const start = new RegExp(`export interface ${name} \\{`).exec(source);
  if (!start) throw new Error(`the contract has no interface ${name}`);
  const members = new Map();
  let depth = 0;
  let statement = "";
  for (const character of source.slice(start.index + start[0].length)) {
    if (character === "}" && depth === 0) break;
    if ("{([".includes(character)) depth += 1;
    if ("})]".includes(character)) depth -= 1;
    if (character === ";" && depth === 0) {
      const member = /^(?:readonly\s+)?(\w+)(\??)\s*(\(|:|<)/.exec(statement.trim());
      if (member) members.set(member[1], member[3] === ":" ? "value" : "method");
      statement = "";
    } else statement += character;
  }
  return members;
}

function compare(where, contract, actual) {
  for (const [name, kind] of contract) {
    if (!actual.has(name)) problems.push(`${where}.${name} is in the contract but not in the addon`);
    else if (actual.get(name) !== kind)
      problems.push(`${where}.${name}: a ${kind} in the contract, a ${actual.get(name)} in the addon`);
  }
  for (const name of actual.keys())
    if (!contract.has(name)) problems.push(`${where}.${name} is in the addon but not in the contract`);
}

const kind = (value) => (typeof value === "function" ? "method" : "value");
const own = (object) => new Map(Object.keys(object).map((name) => [name, kind(object[name])]));

/** Own properties and what its class brings. */
function membersOf(object) {
  const members = new Map();
  for (let at = object; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const [name, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(at)))
      if (name !== "constructor" && !members.has(name))
        members.set(name, descriptor.get ? "value" : kind(descriptor.value));
  }
  return members;
}

/** contract.ts and the files it is made of. */
function contractText() {
  const folder = path.join(root, "src/native");
  const parts = fs.readdirSync(path.join(folder, "contract")).sort();
  return ["contract.ts", ...parts.map((name) => path.join("contract", name))]
    .map((name) => fs.readFileSync(path.join(folder, name), "utf8"))
    .join("\n");
}

async function main() {
  const text = contractText();
  const source = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/\/\/[^\n]*/g, "");
  if (!fs.existsSync(loader)) throw new Error("dist/ is missing: run `npm run build` first");
  const { loadAddon } = await import(pathToFileURL(loader).href);
  const addon = loadAddon();

  compare("NativeAddon", interfaceMembers(source, "NativeAddon"), own(addon));
  const versions = /versions:\s*\{([^}]*)\}/.exec(source)?.[1] ?? "";
  const versionNames = [...versions.matchAll(/(\w+):/g)].map((match) => [match[1], "value"]);
  compare("versions", new Map(versionNames), own(addon.versions ?? {}));
  compare(
    "machine()",
    new Map(["isa", "cores", "cuda"].map((name) => [name, "value"])),
    own(addon.machine()),
  );

  const archive = firstArchive();
  if (archive) {
    const model = await addon.load({
      path: archive,
      device: "cpu",
      dtype: "auto",
      threads: 1,
      layersPath: null,
      tokenBudget: 64,
      maxBatch: 1,
      cacheBytes: 2 ** 22,
    });
    try {
      compare("NativeModel", interfaceMembers(source, "NativeModel"), membersOf(model));
      compare("NativeModelInfo", interfaceMembers(source, "NativeModelInfo"), own(model.info));
      compare("NativeStats", interfaceMembers(source, "NativeStats"), own(model.stats()));
    } finally {
      await model.dispose();
    }
  } else process.stderr.write("contract: no archive in models/, so NativeModel was not compared\n");
}

function firstArchive() {
  const folder = path.join(root, "models");
  if (!fs.existsSync(folder)) return null;
  const names = fs
    .readdirSync(folder, { recursive: true })
    .filter((name) => /\.(pt|pts|ts|steer)$/.test(name));
  return names.length > 0 ? path.join(folder, names.sort()[0]) : null;
}

if (process.argv[1] === createRequire(import.meta.url).resolve("./check-contract.mjs")) {
  try {
    await main();
  } catch (error) {
    problems.push(error.message);
  }
  for (const problem of problems) process.stderr.write(`contract: ${problem}\n`);
  process.stderr.write(
    problems.length === 0 ? "contract: the addon fits\n" : `contract: ${problems.length} problems\n`,
  );
  process.exitCode = problems.length === 0 ? 0 : 1;
}
