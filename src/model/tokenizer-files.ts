// SPDX-License-Identifier: Apache-2.0
// The tokenizer that goes into an archive: Hugging Face files as they are, or made from GGUF metadata.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { GgufHeader } from "../formats/gguf.ts";
import { readJson } from "./checkpoint.ts";
import type { ConfigReader } from "./families/config-reader.ts";
import { ggufTokenizer } from "./gguf-tokenizer.ts";

/** Extra files of an archive and what the rest needs to know of them. */
export interface TokenizerBundle {
  files: { name: string; bytes: Uint8Array }[];
  bosId: number | null;
  eosIds: number[];
  /** Whether a beginning token is put before a text; null = as tokenizer.json says. */
  addBos: boolean | null;
  hasChatTemplate: boolean;
}

/** Files of a Hugging Face folder that an archive takes over, where they are there. */
export const HUB_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
];

/** The tokenizer files of a Hugging Face folder; none is required (a model can be run on token ids). */
export function huggingFaceTokenizerFiles(folder: string, config: ConfigReader): TokenizerBundle {
  const files = HUB_FILES.filter((name) => existsSync(join(folder, name))).map((name) => ({
    name,
    bytes: new Uint8Array(readFileSync(join(folder, name))),
  }));
  const has = (name: string) => files.some((file) => file.name === name);
  const tokenizerConfig = has("tokenizer_config.json") ? readJson(join(folder, "tokenizer_config.json")) : {};
  const generation = has("generation_config.json") ? readJson(join(folder, "generation_config.json")) : {};
  return {
    files,
    bosId: idsOf(generation.bos_token_id)[0] ?? idsOf(config.raw("bos_token_id"))[0] ?? null,
    // generation_config.json is what the makers mean for generating; config.json is often older.
    eosIds: idsOf(generation.eos_token_id ?? config.raw("eos_token_id")),
    addBos: typeof tokenizerConfig.add_bos_token === "boolean" ? tokenizerConfig.add_bos_token : null,
    hasChatTemplate: has("chat_template.jinja") || tokenizerConfig.chat_template !== undefined,
  };
}

/** tokenizer.json, tokenizer_config.json and generation_config.json from GGUF metadata. Throws ERR_GGUF_TOKENIZER. */
export function ggufTokenizerFiles(file: string, header: GgufHeader): TokenizerBundle {
  const made = ggufTokenizer(file, header.metadata);
  const encode = (name: string, value: unknown) => ({
    name,
    bytes: new TextEncoder().encode(JSON.stringify(value)),
  });
  return {
    files: [
      encode("tokenizer.json", made.tokenizer),
      encode("tokenizer_config.json", made.config),
      encode("generation_config.json", { bos_token_id: made.bosId, eos_token_id: made.eosIds }),
    ],
    bosId: made.bosId,
    eosIds: made.eosIds,
    addBos: made.addBos,
    hasChatTemplate: made.hasChatTemplate,
  };
}

function idsOf(value: unknown): number[] {
  const ids = Array.isArray(value) ? value : [value];
  return ids.filter((id): id is number => Number.isSafeInteger(id) && (id as number) >= 0);
}
