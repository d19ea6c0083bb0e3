// SPDX-License-Identifier: Apache-2.0
// What a loaded model is, in one plain object: what the addon found, and what the archive says of itself.

import { createHash } from "node:crypto";
import type { NativeModelInfo } from "../native/contract.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface ModelInfo extends Omit<NativeModelInfo, "metadata" | "sites"> {
  /**
   * sha256 (hex) of the files the weights came from, so that it stays the same however they are stored;
   * of the archive's weight records where those files are not known.
   */
  weightHash: string;
  /** Name the model goes by: of the archive's metadata, else as it was asked for. */
  name: string;
  /** "llama", "qwen2", ...; "" for a stranger's archive. */
  family: string;
  /** chatspace.json of our own archives, parsed; {} for a stranger's. */
  metadata: Readonly<Record<string, unknown>>;
  /** Path of the archive. */
  path: string;
  /** Token ids that end an answer. */
  eosIds: readonly number[];
  /**
   * An answer is the same to the bit alone, in any batch, with its prompt in chunks or cached, with any
   * number of threads. Always so for archives of our own on the CPU.
   */
  reproducible: boolean;
}

export function modelInfo(
  native: NativeModelInfo,
  place: { path: string; asked: string },
  eosIds: readonly number[],
): Readonly<ModelInfo> {
  const { metadata: text, sites: _sites, ...found } = native;
  const metadata = parseRecord(text);
  return Object.freeze({
    ...found,
    name: stringOf(metadata.name) ?? fileStem(place.asked),
    family: stringOf(metadata.family) ?? "",
    weightHash: sourceHash(metadata.source) ?? native.weightHash,
    metadata,
    path: place.path,
    eosIds,
    reproducible: native.kind === "own" && native.device === "cpu",
  });
}

/** Ends of a turn in the usual chat formats; they end an answer when the template writes them. */
const TURN_ENDS = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endofturn|>"];

/**
 * Token ids that end an answer: of the archive's metadata, of generation_config.json, the tokenizer's
 * end-of-sequence token, and the end of a turn in its chat template.
 */
export function endOfSequenceIds(
  metadataText: string,
  generationConfig: Uint8Array | null,
  tokenizer: Tokenizer | undefined,
  vocabSize: number,
): number[] {
  const ids = new Set<number>();
  const config = generationConfig === null ? {} : parseRecord(new TextDecoder().decode(generationConfig));
  const metadata = parseRecord(metadataText);
  for (const value of [metadata.eosIds, config.eos_token_id])
    for (const id of Array.isArray(value) ? value : [value]) if (typeof id === "number") ids.add(id);
  if (tokenizer) {
    const template = tokenizer.chatTemplate ?? "";
    const tokens = [tokenizer.eosToken, ...TURN_ENDS.filter((token) => template.includes(token))];
    for (const token of tokens) {
      const id = token === undefined ? undefined : tokenizer.idOf(token);
      if (id !== undefined) ids.add(id);
    }
  }
  return [...ids].filter((id) => Number.isInteger(id) && id >= 0 && id < vocabSize).sort((a, b) => a - b);
}

/** The sha256 of one source file as it is; of several, the sha256 of theirs in order of name. */
function sourceHash(source: unknown): string | undefined {
  const files = typeof source === "object" && source !== null && "files" in source ? source.files : undefined;
  if (!Array.isArray(files) || files.length === 0) return undefined;
  const hashes = (files as { name?: unknown; sha256?: unknown }[])
    .toSorted((a, b) => (String(a.name) < String(b.name) ? -1 : 1))
    .map(({ sha256 }) => (typeof sha256 === "string" ? sha256 : ""));
  if (hashes.includes("")) return undefined;
  return hashes.length === 1 ? hashes[0] : createHash("sha256").update(hashes.join("\n")).digest("hex");
}

function parseRecord(text: string): Record<string, unknown> {
  if (text === "") return {};
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function stringOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function fileStem(path: string): string {
  const base = path.split(/[\\/]/).at(-1) ?? path;
  return base.replace(/\.(pt|pth|ts|torchscript)$/i, "");
}
