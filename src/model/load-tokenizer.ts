// SPDX-License-Identifier: Apache-2.0
// Where a model's tokenizer comes from: the files inside the archive, or a folder the caller names.

import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ModelError } from "../errors.ts";
import type { NativeModel } from "../native/contract.ts";
import { parseTokenizerFiles, Tokenizer } from "./tokenizer.ts";

/** The tokenizer of an archive, or undefined when it has none. */
export function archiveTokenizer(native: NativeModel): Tokenizer | undefined {
  const tokenizer = native.extraFile("tokenizer.json");
  if (tokenizer === null) return undefined;
  const config = native.extraFile("tokenizer_config.json");
  return new Tokenizer(parseTokenizerFiles(tokenizer, config, native.extraFile("chat_template.jinja")));
}

/**
 * Reads a tokenizer from a folder with tokenizer.json, or from that file.
 * @throws ModelError ERR_TOKENIZER when it is missing or no tokenizer.
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const direct = path.endsWith(".json");
  const folder = direct ? dirname(path) : path;
  const file = direct ? path : join(path, "tokenizer.json");
  let tokenizer: Uint8Array;
  try {
    tokenizer = await readFile(file);
  } catch (cause) {
    throw new ModelError("ERR_TOKENIZER", `tokenizer: expected ${file}, got ${String(cause)}`, {
      cause,
      details: { path },
      remedies: ["give a folder that holds tokenizer.json (and tokenizer_config.json)"],
    });
  }
  const [config, template] = await Promise.all([
    readFile(join(folder, "tokenizer_config.json")).catch(() => null),
    readFile(join(folder, "chat_template.jinja")).catch(() => null),
  ]);
  return new Tokenizer(parseTokenizerFiles(tokenizer, config, template));
}

/** Hands the bytes of the tokens to the engine, which matches stop strings on them. */
export function giveTokenBytes(native: NativeModel, tokenizer: Tokenizer): void {
  const { bytes, offsets } = tokenizer.table();
  const { vocabSize } = native.info;
  // Models pad their vocabulary beyond the tokenizer's (or the other way round); the rest has no bytes.
  const fitted = new Int32Array(vocabSize + 1).fill(offsets.at(-1) ?? 0);
  fitted.set(offsets.subarray(0, Math.min(offsets.length, vocabSize + 1)));
  native.setTokenBytes(bytes.subarray(0, fitted[vocabSize]), fitted);
}
