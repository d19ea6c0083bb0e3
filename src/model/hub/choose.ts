// SPDX-License-Identifier: Apache-2.0
// Which files of a repository a model needs: config, tokenizer and weights, or one GGUF file.

import { basename } from "node:path";
import { DataError } from "../../errors.ts";
import { HUB_FILES } from "../tokenizer-files.ts";

/**
 * A GGUF file by itself (of a split one the first part, see ggufParts), or a folder's files; where `index` is
 * given, its shards come on top.
 */
export type HubChoice =
  | { kind: "gguf"; file: string }
  | { kind: "folder"; files: string[]; index: string | null };

/** In order of preference; the second of each pair lists shards. */
const WEIGHTS = [
  ["model.safetensors", "model.safetensors.index.json"],
  ["pytorch_model.bin", "pytorch_model.bin.index.json"],
] as const;

/**
 * The files to take. `wanted` is a GGUF file of the repository or a part of its name, whatever its case.
 * Throws ERR_HUB_FILE, which lists what there is, when nothing fits or more than one does.
 */
export function chooseFiles(where: string, files: readonly string[], wanted: string | null): HubChoice {
  const ggufs = files.filter(isWholeGguf).sort();
  if (wanted !== null) return { kind: "gguf", file: chooseGguf(where, ggufs, wanted) };
  const present = new Set(files);
  if (present.has("config.json"))
    for (const [single, index] of WEIGHTS) {
      const weights = present.has(single) ? single : present.has(index) ? index : null;
      if (weights === null) continue;
      const others = ["config.json", ...HUB_FILES].filter((file) => present.has(file));
      return { kind: "folder", files: [...others, weights], index: weights === index ? index : null };
    }
  if (ggufs.length === 1) return { kind: "gguf", file: ggufs[0]! };
  if (ggufs.length > 1) throw undecided(where, "one of its GGUF files to be named", ggufs);
  throw undecided(where, "config.json with safetensors or pytorch_model.bin, or a GGUF file", files);
}

/** Names of the shards an index lists; they lie beside it. Throws ERR_HUB_FILE. */
export function shardsOf(where: string, indexText: string): string[] {
  let map: unknown;
  try {
    map = (JSON.parse(indexText) as { weight_map?: unknown }).weight_map;
  } catch {
    map = undefined;
  }
  const shards = typeof map === "object" && map !== null ? [...new Set(Object.values(map))] : [];
  const plain = shards.filter(
    (shard): shard is string => typeof shard === "string" && basename(shard) === shard,
  );
  if (plain.length > 0 && plain.length === shards.length) return plain.sort();
  throw new DataError(
    "ERR_HUB_FILE",
    `${where}: expected a weight_map of file names, got ${indexText.slice(0, 60)}`,
    {
      details: { where },
      remedies: ["The repository's index is broken; tell its makers, or take another revision."],
    },
  );
}

function chooseGguf(where: string, ggufs: string[], wanted: string): string {
  if (ggufs.includes(wanted)) return wanted;
  const part = wanted.toLowerCase();
  const fits = ggufs.filter((file) => file.toLowerCase().includes(part));
  // "Q4_K" is a part of Q4_K_M too; who names it fully means it.
  const exact = fits.filter((file) =>
    new RegExp(`(^|[-._/])${literal(part)}(-00001-of-\\d{5})?\\.gguf$`, "i").test(file),
  );
  if (exact.length === 1) return exact[0]!;
  if (fits.length === 1) return fits[0]!;
  throw undecided(where, `one GGUF file that "${wanted}" is a part of`, fits.length > 0 ? fits : ggufs);
}

// Later parts of a split file and projectors of image models are no models by themselves.
function isWholeGguf(file: string): boolean {
  const later = /-\d{5}-of-\d{5}\.gguf$/.test(file) && !/-00001-of-\d{5}\.gguf$/.test(file);
  return file.endsWith(".gguf") && !later && !/(^|\/)mmproj/i.test(file);
}

function literal(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

function undecided(where: string, expected: string, files: readonly string[]): DataError {
  const shown = files.slice(0, 40);
  const list = `${shown.join("\n  ")}${files.length > shown.length ? "\n  ..." : ""}`;
  return new DataError("ERR_HUB_FILE", `${where}: expected ${expected}; there are\n  ${list || "no files"}`, {
    details: { where, expected, files: shown },
    remedies: ["Name a GGUF file: --file NAME, or org/name:NAME; a part of its name is enough (Q8_0)."],
  });
}
