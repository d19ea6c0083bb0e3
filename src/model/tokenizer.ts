// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a model: text to ids by @huggingface/tokenizers, ids to text by the bytes of the
// tokens, which is exact for every split and the same for a stream and for the whole.

import { Tokenizer as HubTokenizer } from "@huggingface/tokenizers";
import { ModelError } from "../errors.ts";
import { type TokenBytes, type TokenSpelling, tokenByteTable, tokenSpelling } from "./token-bytes.ts";

/** The files of a tokenizer, as Hugging Face writes them. */
export interface TokenizerFiles {
  /** tokenizer.json, parsed. */
  tokenizer: Record<string, unknown>;
  /** tokenizer_config.json, parsed; {} when there is none. */
  config: Record<string, unknown>;
  /** chat_template.jinja, when it is a file of its own. */
  template?: string;
}

/** What tokenizer.json says of the steps before the vocabulary, as it stands there. */
export interface TokenizerPipeline {
  normalizer: unknown;
  pre_tokenizer: unknown;
  added_tokens: unknown;
}

export interface EncodeOptions {
  /** Add what the model expects around a text (a beginning-of-sequence token). Default true. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave out tokens such as end-of-sequence. Default true. */
  skipSpecialTokens?: boolean;
  /** The ids go on from other text, so that a leading space belongs to it. Default false. */
  continuation?: boolean;
}

/** Text to token ids and back. Stateless; safe to share. */
export class Tokenizer {
  /** Number of ids, holes included. */
  readonly size: number;
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  /** The chat template (jinja source), or undefined. */
  readonly chatTemplate: string | undefined;
  readonly pipeline: Readonly<TokenizerPipeline>;
  readonly #hub: HubTokenizer;
  readonly #spelling: TokenSpelling;
  readonly #special: ReadonlySet<number>;
  readonly #literal: ReadonlySet<number>;
  readonly #addBos: boolean | undefined;
  #table: TokenBytes | undefined;

  /** @throws ModelError ERR_TOKENIZER when the files do not describe a tokenizer. */
  constructor(files: TokenizerFiles) {
    const { tokenizer, config } = files;
    try {
      this.#hub = new HubTokenizer(tokenizer, config);
    } catch (cause) {
      throw new ModelError("ERR_TOKENIZER", `tokenizer.json: expected a tokenizer, got ${String(cause)}`, {
        cause,
        remedies: ["check tokenizer.json and tokenizer_config.json; both come from the model's folder"],
      });
    }
    this.#spelling = tokenSpelling(tokenizer.decoder as never);
    const added = [...this.#hub.get_added_tokens_decoder().values()];
    this.#literal = new Set(added.map((token) => token.id));
    this.#special = new Set(added.filter((token) => token.special).map((token) => token.id));
    let largest = -1;
    for (const id of this.#hub.get_vocab(true).values()) largest = Math.max(largest, id);
    this.size = largest + 1;
    this.bosToken = tokenText(config.bos_token);
    this.eosToken = tokenText(config.eos_token);
    this.#addBos = typeof config.add_bos_token === "boolean" ? config.add_bos_token : undefined;
    const { normalizer = null, pre_tokenizer = null, added_tokens = [] } = tokenizer;
    this.pipeline = { normalizer, pre_tokenizer, added_tokens };
    this.chatTemplate = files.template ?? defaultTemplate(config.chat_template);
  }

  /** Token ids of a text, [tokens]. */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    if (text === "" && options.addSpecialTokens === false) return new Int32Array(0);
    const special = options.addSpecialTokens ?? true;
    const { ids } = this.#hub.encode(text, { add_special_tokens: special });
    return Int32Array.from(special ? this.#withBos(ids) : ids);
  }

  /** tokenizer_config.json may overrule what tokenizer.json adds in front. */
  #withBos(ids: number[]): number[] {
    const bos = this.bosToken === undefined ? undefined : this.idOf(this.bosToken);
    if (bos === undefined || this.#addBos === undefined || (ids[0] === bos) === this.#addBos) return ids;
    return this.#addBos ? [bos, ...ids] : ids.slice(1);
  }

  /** Text of token ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? true;
    const kept = Array.from(ids).filter((id) => !(skip && this.#special.has(id)));
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.bytes(kept));
    const whole = options.continuation !== true && this.#spelling === "metaspace";
    // SentencePiece writes a space before the first word; it is not part of the text.
    return whole && text.startsWith(" ") ? text.slice(1) : text;
  }

  /** Bytes of some tokens, one after another; special tokens as they are written. */
  bytes(ids: ArrayLike<number>): Uint8Array {
    const { bytes, offsets } = this.table();
    const parts = Array.from(ids, (id) =>
      id >= 0 && id < this.size ? bytes.subarray(offsets[id]!, offsets[id + 1]!) : new Uint8Array(0),
    );
    const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  }

  /** Bytes of every token; made once. */
  table(): TokenBytes {
    this.#table ??= tokenByteTable(
      this.size,
      (id) => this.#hub.id_to_token(id),
      this.#literal,
      this.#spelling,
    );
    return this.#table;
  }

  /** Whether a token is special: it marks structure and is left out of text. */
  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  /** Id of a token by its exact text, or undefined. */
  idOf(token: string): number | undefined {
    return this.#hub.token_to_id(token);
  }

  /** Vocabulary entry of an id, as the tokenizer spells it, or undefined. */
  tokenOf(id: number): string | undefined {
    return this.#hub.id_to_token(id);
  }
}

/** Reads tokenizer files from their bytes (ERR_TOKENIZER when they are not JSON). */
export function parseTokenizerFiles(
  tokenizer: Uint8Array,
  config: Uint8Array | null,
  template: Uint8Array | null,
): TokenizerFiles {
  return {
    tokenizer: parseJson("tokenizer.json", tokenizer),
    config: config === null ? {} : parseJson("tokenizer_config.json", config),
    ...(template === null ? {} : { template: new TextDecoder().decode(template) }),
  };
}

function parseJson(name: string, bytes: Uint8Array): Record<string, unknown> {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
  } catch (cause) {
    throw new ModelError("ERR_TOKENIZER", `${name}: expected JSON, got ${String(cause)}`, { cause });
  }
}

/** Special tokens are written as text or as an object with the text in `content`. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "object" && value !== null && "content" in value) return String(value.content);
  return undefined;
}

/** A template, or the one named "default" of a list of them. */
function defaultTemplate(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  const named = value as { name?: string; template?: string }[];
  return (named.find((entry) => entry.name === "default") ?? named[0])?.template;
}
