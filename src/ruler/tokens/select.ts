// SPDX-License-Identifier: Apache-2.0
// From what the user names to a token counter.

import { readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { DataError } from "../../errors.ts";
import type { TokenCounter } from "./counter.ts";
import { huggingFaceCounter, type TokenizerFile } from "./huggingface.ts";
import { packagedRanks, parseRanks, TIKTOKEN_NAMES, type TiktokenName, tiktokenCounter } from "./tiktoken.ts";

const loaded = new Map<string, Promise<TokenCounter>>();

/**
 * A counter for `cl100k_base`, `o200k_base`, a `.tiktoken` file, a `tokenizer.json` or a folder with one.
 *
 * @throws DataError ERR_RULER_TOKENIZER where nothing usable is there
 */
export function selectTokenizer(name: string): Promise<TokenCounter> {
  let counter = loaded.get(name);
  if (!counter) {
    counter = load(name);
    loaded.set(name, counter);
    counter.catch(() => loaded.delete(name));
  }
  return counter;
}

async function load(name: string): Promise<TokenCounter> {
  if (isTiktokenName(name)) return tiktokenCounter(name, await packagedRanks(name));
  const entry = await stat(name).catch(() => undefined);
  if (!entry) throw absent(name, "no such file or folder, and not a built-in encoding");
  const path = entry.isDirectory() ? join(name, "tokenizer.json") : name;
  if (path.endsWith(".tiktoken")) {
    const encoding = basename(path, ".tiktoken");
    if (!isTiktokenName(encoding))
      throw absent(name, `a .tiktoken file must be named after one of ${TIKTOKEN_NAMES.join(", ")}`);
    return tiktokenCounter(encoding, parseRanks(await readFile(path, "utf8"), path));
  }
  if (!path.endsWith(".json"))
    throw absent(name, "expected a tokenizer.json, a folder with one, or a .tiktoken file");
  const file = (await readJson(path, name)) as TokenizerFile;
  if (typeof file.model !== "object" || file.model === null)
    throw absent(name, `${path} holds no tokenizer model`);
  const config = await readJson(join(dirname(path), "tokenizer_config.json"), name).catch(() => ({}));
  try {
    return huggingFaceCounter(name, file, config);
  } catch (cause) {
    throw absent(name, `${path} cannot be used: ${(cause as Error).message}`, cause);
  }
}

function isTiktokenName(name: string): name is TiktokenName {
  return (TIKTOKEN_NAMES as readonly string[]).includes(name);
}

async function readJson(path: string, name: string): Promise<object> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw absent(name, `${path} cannot be read`, cause);
  }
  try {
    return JSON.parse(text) as object;
  } catch (cause) {
    throw absent(name, `${path} is not JSON`, cause);
  }
}

function absent(name: string, reason: string, cause?: unknown): DataError {
  return new DataError("ERR_RULER_TOKENIZER", `tokenizer ${JSON.stringify(name)}: ${reason}`, {
    details: { tokenizer: name, reason },
    remedies: [
      `name a built-in encoding: ${TIKTOKEN_NAMES.join(", ")}`,
      "give the path of a Hugging Face tokenizer.json or of the folder that holds it",
    ],
    cause,
  });
}
