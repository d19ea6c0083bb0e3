#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// Enforces who may know whom, in TypeScript and in C++. Every file belongs to a stratum by its folder and
// may use its own and lower ones; folders of one stratum may use each other, but not in a circle.
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(process.argv[2] ?? path.join(path.dirname(fileURLToPath(import.meta.url)), ".."));

const TYPESCRIPT = strata([
  ["errors"],
  ["formats", "native"],
  ["steering"],
  ["model", "data"],
  ["server", "ruler", "memory", "embed", "vectors"],
  ["index"],
  ["cli"],
]);
const CPP = strata([
  ["errors"],
  ["kernels"],
  ["ops"],
  ["decoder", "steering", "learning", "archive"],
  ["engine"],
  ["bindings", "preload"],
  ["addon", "tests"],
]);

/** [pattern in C++ includes, who may use it, sentence]. */
const CPP_RULES = [
  [
    /^(napi|node_api|js_native_api)[\w-]*\.h$/,
    /^(bindings|preload)\/|^addon\.cc$/,
    "Node-API belongs to bindings/ and addon.cc",
  ],
  [/^(torch|ATen|c10|caffe2)\//, /^(?!kernels\/|preload\/)/, "kernels take raw pointers, no torch headers"],
  [
    /^(cuda|cublas|cudnn|cusparse|curand|nccl)[\w-]*\.h(pp)?$|^(ATen|c10)\/cuda\//,
    /^kernels\/(cuda\/|[^/]+\.cuh?$)|^ops\/cuda\//,
    "the CUDA runtime belongs to kernels/*.cu, kernels/cuda/ and ops/cuda/",
  ],
];

/** [pattern in a line of TypeScript, who may use it, sentence]. */
const TYPESCRIPT_RULES = [
  [
    /\bprocess\.dlopen\b|\brequire\([^)]*\.node["'`]/,
    /^native\/loader\.ts$/,
    "only src/native/loader.ts opens a .node file",
  ],
  [/\bconsole\.log\b|\bprocess\.stdout\b/, /^cli\//, "only cli/ writes to stdout"],
  // stage.ts is the program of a child process.
  [/\bprocess\.exit\(/, /^cli\/|^embed\/stages\/stage\.ts$/, "only cli/ ends the process"],
];

const problems = [];
const edges = new Map();

for (const file of files("src", /\.ts$/)) {
  const text = fs.readFileSync(path.join(root, "src", file), "utf8");
  const from = folderOf(file);
  const code = withoutComments(text);
  for (const match of code.matchAll(/(?:from|import)\s*\(?\s*["'](\.{1,2}\/[^"']+)["']/g)) {
    const target = path.posix.normalize(path.posix.join(path.posix.dirname(file), match[1]));
    if (target.startsWith("..")) continue;
    use(TYPESCRIPT, "src", file, from, folderOf(target), lineOf(code, match.index), match[1]);
  }
  for (const match of code.matchAll(/new URL\(\s*["'](\.{1,2}\/[^"']+\.[jt]s)["']/g)) {
    const target = path.posix.normalize(path.posix.join(path.posix.dirname(file), match[1]));
    if (!target.startsWith(".."))
      use(TYPESCRIPT, "src", file, from, folderOf(target), lineOf(code, match.index), match[1]);
  }
  rules(TYPESCRIPT_RULES, "src", file, code.split("\n"));
}

for (const file of files("native", /\.(cc|h|cu|cuh|inl)$/)) {
  const lines = fs.readFileSync(path.join(root, "native", file), "utf8").split("\n");
  lines.forEach((line, index) => {
    const match = /^\s*#\s*include\s*([<"])([^>"]+)[>"]/.exec(line);
    if (!match) return;
    const [, kind, target] = match;
    for (const [pattern, who, sentence] of CPP_RULES)
      if (pattern.test(target) && !who.test(file))
        problems.push(`native/${file}:${index + 1}: includes <${target}>: ${sentence}`);
    if (kind === '"' && target.includes("/") && fs.existsSync(path.join(root, "native", target)))
      use(CPP, "native", file, folderOf(file), folderOf(target), index + 1, target);
  });
}

circles();
for (const problem of problems) process.stderr.write(`${problem}\n`);
process.stderr.write(problems.length === 0 ? "layering: clean\n" : `layering: ${problems.length} problems\n`);
process.exitCode = problems.length === 0 ? 0 : 1;

function strata(levels) {
  return new Map(levels.flatMap((folders, level) => folders.map((folder) => [folder, level])));
}

function folderOf(file) {
  return file.includes("/") ? file.slice(0, file.indexOf("/")) : file.replace(/\..*$/, "");
}

function use(map, tree, file, from, to, line, target) {
  const here = map.get(from);
  const there = map.get(to);
  const place = `${tree}/${file}:${line}`;
  if (here === undefined)
    problems.push(`${place}: ${tree}/${from} has no stratum; give it one in check-layering.mjs`);
  else if (there === undefined) problems.push(`${place}: ${target}: ${tree}/${to} has no stratum`);
  else if (there > here) problems.push(`${place}: ${from} may not know ${to} (${target})`);
  else if (from !== to && there === here) {
    const key = `${tree}/${from}`;
    if (!edges.has(key)) edges.set(key, new Map());
    edges.get(key).set(`${tree}/${to}`, place);
  }
}

/** Folders of one stratum that use each other both ways, at any distance. */
function circles() {
  for (const start of edges.keys()) {
    const seen = new Set();
    const queue = [...edges.get(start).keys()];
    while (queue.length > 0) {
      const next = queue.pop();
      if (next === start) {
        problems.push(`${[...edges.get(start).values()][0]}: ${start} is part of a circle of folders`);
        break;
      }
      if (seen.has(next)) continue;
      seen.add(next);
      queue.push(...(edges.get(next)?.keys() ?? []));
    }
  }
}

function rules(list, tree, file, lines) {
  for (const [pattern, who, sentence] of list) {
    if (who.test(file)) continue;
    lines.forEach((line, index) => {
      if (pattern.test(line)) problems.push(`${tree}/${file}:${index + 1}: ${sentence}`);
    });
  }
}

/** Comments become blanks, so that an example in a docstring is no use; lines keep their numbers. */
function withoutComments(text) {
  const blank = (comment) => comment.replace(/[^\n]/g, " ");
  return text.replace(/\/\*[\s\S]*?\*\//g, blank).replace(/(^|[\s;{}()])\/\/[^\n]*/g, blank);
}

function lineOf(text, index) {
  return text.slice(0, index).split("\n").length;
}

function files(tree, pattern) {
  const folder = path.join(root, tree);
  if (!fs.existsSync(folder)) return [];
  return fs
    .readdirSync(folder, { recursive: true })
    .map((name) => name.split(path.sep).join("/"))
    .filter((name) => pattern.test(name));
}
