// SPDX-License-Identifier: Apache-2.0
// A GGUF model of one file or of several (NAME-00001-of-00003.gguf, as llama.cpp's gguf-split writes them):
// one header over all of them. The first part holds the metadata.

import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { ModelError } from "../errors.ts";
import { type GgufEntry, type GgufHeader, readGgufHeader } from "../formats/gguf.ts";

/** A tensor and the file that holds it. */
export interface GgufPartEntry extends GgufEntry {
  readonly file: string;
}

export interface GgufModel extends GgufHeader {
  readonly tensors: ReadonlyMap<string, GgufPartEntry>;
  readonly files: readonly string[];
}

const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** Paths of all parts of the model that `file` is a part of; the file alone where it is whole. */
export function ggufParts(file: string): string[] {
  const [, stem, , count] = PART.exec(basename(file)) ?? [];
  if (stem === undefined || count === undefined) return [file];
  const name = (part: number) => `${stem}-${String(part).padStart(5, "0")}-of-${count}.gguf`;
  return Array.from({ length: Number(count) }, (_, index) => join(dirname(file), name(index + 1)));
}

/** Reads the headers. Throws ERR_GGUF, ERR_CHECKPOINT when a part is absent or a tensor is in two. */
export function openGgufParts(file: string): GgufModel {
  const files = ggufParts(file);
  const absent = files.filter((path) => !existsSync(path)).map((path) => basename(path));
  if (absent.length > 0)
    throw bad(file, `all ${files.length} parts beside each other`, `these are absent: ${absent.join(", ")}`);
  const [first, ...rest] = files.map((path) => ({ path, header: readGgufHeader(path) }));
  const { version, metadata } = first!.header;
  const told = metadata.get("split.count") ?? 1;
  if (told !== files.length && !(told === 0 && files.length === 1))
    throw bad(file, `the names of ${String(told)} parts (split.count)`, `the name of one of ${files.length}`);
  const tensors = new Map<string, GgufPartEntry>();
  for (const { path, header } of [first!, ...rest])
    for (const [name, entry] of header.tensors) {
      if (tensors.has(name)) throw bad(file, "each tensor in one part", `${name} in two`);
      tensors.set(name, { ...entry, file: path });
    }
  return { version, metadata, tensors, files };
}

function bad(file: string, expected: string, got: string): ModelError {
  return new ModelError("ERR_CHECKPOINT", `${file}: expected ${expected}, got ${got}`, {
    details: { path: file, expected, got },
    remedies: ["Put all parts of the model into one folder, under the names they came with."],
  });
}
