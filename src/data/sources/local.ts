// SPDX-License-Identifier: Apache-2.0
// A data set on this machine: a file, a folder, or a glob.

import { readdir } from "node:fs/promises";
import { basename, join, relative, resolve, sep } from "node:path";
import { DataError } from "../../errors.ts";
import { statOrNull } from "../files.ts";
import { byCodeUnit, chooseFiles, formatOf, readerOf } from "./formats.ts";
import { cachedHash, sourceMissing } from "./hash-cache.ts";
import type { DataSource, SourceFile, SourceFormat } from "./source.ts";

/** Says whether a --dataset value means files here: it has a wildcard, or it exists. */
export async function isLocal(dataset: string): Promise<boolean> {
  return /[*?{]/.test(dataset) || /^[./~]/.test(dataset) || (await statOrNull(dataset)) !== null;
}

/** A glob as a regular expression over "/"-separated paths: `*`, `?`, `**`, `{a,b}`, `[abc]`. */
export function globPattern(glob: string): RegExp {
  let out = "";
  let depth = 0;
  for (let i = 0; i < glob.length; i++) {
    const c = glob[i] as string;
    if (c === "*") {
      if (glob[i + 1] === "*") {
        i++;
        if (glob[i + 1] === "/") {
          i++;
          out += "(?:[^/]+/)*";
        } else out += ".*";
      } else out += "[^/]*";
    } else if (c === "?") out += "[^/]";
    else if (c === "{") {
      depth++;
      out += "(?:";
    } else if (c === "}" && depth > 0) {
      depth--;
      out += ")";
    } else if (c === "," && depth > 0) out += "|";
    else if (c === "[" && glob.indexOf("]", i + 2) > i) {
      const end = glob.indexOf("]", i + 2);
      out += `[${glob
        .slice(i + 1, end)
        .replace(/^!/, "^")
        .replaceAll("\\", "\\\\")}]`;
      i = end;
    } else out += c.replace(/[.+^$()|[\]\\{}]/g, "\\$&");
  }
  return new RegExp(`^${out}$`);
}

async function walk(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join("/"))
    .filter((name) => !name.split("/").some((part) => part.startsWith(".")))
    .sort(byCodeUnit);
}

/** Name of a local data set for folders and the manifest: its folder's or file's own name. */
export function localName(dataset: string): string {
  const wild = dataset.search(/[*?{[]/);
  if (wild === -1)
    return basename(resolve(dataset))
      .replace(/\.(gz|zst|zstd)$/i, "")
      .replace(/\.[a-z]+$/i, "");
  const base = dataset.slice(0, dataset.slice(0, wild).lastIndexOf("/") + 1);
  return `${basename(resolve(base === "" ? "." : base))}/${dataset.slice(base.length)}`;
}

/** Finds the files of a local data set. */
export async function localSource(
  dataset: string,
  wanted: { subset: string | null; split: string; cacheFolder: string | null },
): Promise<DataSource> {
  let root: string;
  let format: SourceFormat;
  let names: string[];
  const wild = dataset.search(/[*?{[]/);
  const stats = wild === -1 || (await statOrNull(dataset)) !== null ? await statOrNull(dataset) : null;
  if (stats?.isDirectory()) {
    root = resolve(dataset);
    ({ format, files: names } = chooseFiles(await walk(root), { ...wanted, where: dataset }));
  } else if (stats !== null) {
    root = resolve(dataset, "..");
    names = [basename(dataset)];
    format = requireFormat(dataset);
  } else if (wild !== -1) {
    const cut = dataset.slice(0, wild).lastIndexOf("/") + 1;
    root = resolve(dataset.slice(0, cut) === "" ? "." : dataset.slice(0, cut));
    if ((await statOrNull(root)) === null) throw sourceMissing(root);
    const pattern = globPattern(dataset.slice(cut).replace(/^\.\//, ""));
    names = (await walk(root)).filter((name) => pattern.test(name));
    if (names.length === 0) {
      throw new DataError("ERR_SOURCE_EMPTY", `No file matches ${dataset}`, {
        details: { glob: dataset, root },
        remedies: ["quote the pattern so that the shell leaves it alone", "use ** to cross folders"],
      });
    }
    const formats = new Set(names.map((name) => requireFormat(name)));
    if (formats.size > 1) {
      throw new DataError(
        "ERR_SOURCE_MIXED",
        `${dataset} matches files of several kinds: ${[...formats].join(", ")}`,
        {
          details: { formats: [...formats] },
          remedies: ["give a pattern that matches one kind"],
        },
      );
    }
    format = [...formats][0] as SourceFormat;
  } else throw sourceMissing(dataset);

  let listed: Promise<SourceFile[]> | null = null;
  return {
    kind: "local",
    format,
    revision: null,
    files() {
      listed ??= (async () => {
        const files: SourceFile[] = [];
        for (const name of names)
          files.push({ name, ...(await cachedHash(join(root, name), wanted.cacheFolder)) });
        return files;
      })();
      return listed;
    },
    async open(index) {
      const name = names[index] as string;
      const path = join(root, name);
      if ((await statOrNull(path)) === null) throw sourceMissing(path);
      return readerOf(format, path, name);
    },
  };
}

function requireFormat(name: string): SourceFormat {
  const format = formatOf(name);
  if (format !== null) return format;
  throw new DataError("ERR_SOURCE_FORMAT", `${name}: its ending names no format that can be read`, {
    details: { file: name },
    remedies: ["parquet, arrow, jsonl(.gz, .zst), csv, tsv, json and txt can be read"],
  });
}
