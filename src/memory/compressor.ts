// SPDX-License-Identifier: Apache-2.0
// PromptCompressor: a checkpoint that turns prompts with memory spans into embeddings. Owner of the
// embedder's model; the language model itself is needed only to generate.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { DataError, DisposedError, misuse } from "../errors.ts";
import { type ChatMessage, ChatTemplate, checkMessages } from "../model/chat-template.ts";
import type { LoadOptions } from "../model/load-options.ts";
import { loadTokenizer } from "../model/load-tokenizer.ts";
import type { PromptEmbeddings } from "../model/prompt.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { checkString } from "../steering/check.ts";
import { type MemoryCheckpoint, modelPath, openMemoryCheckpoint } from "./checkpoint.ts";
import { ChunkEncoder, checkTokenBudget, rowsOf } from "./chunk-encoder.ts";
import { locatePlaceholders, type MemoryTokenIds, memoryTokenIds } from "./placeholders.ts";
import { Projector, projectorBytes } from "./projector.ts";
import type { CompressionSettings } from "./settings.ts";
import { expandSegments, MEMORY_START, type PromptSegment, parseMemorySpans } from "./spans.ts";
import { openTokenRows, type TokenRows } from "./token-rows.ts";

export interface CompressorOptions {
  /** For checkpoints that record none; a contradiction is an error (ERR_MEMORY_CHUNK_SIZE). */
  chunkSize?: number;
  /** Most embedder tokens of one batch. Default 8192. */
  tokenBudget?: number;
  device?: LoadOptions["device"];
  /** Of the embedder. Default float32, also for half-precision checkpoints: it is small, and a cache of half precision costs two digits. */
  dtype?: LoadOptions["dtype"];
  threads?: LoadOptions["threads"];
  signal?: AbortSignal;
  onProgress?: LoadOptions["onProgress"];
}

export interface CompressOptions {
  /** Add what the model expects around a text. Default true for a text, false for a conversation. */
  addSpecialTokens?: boolean;
  /** Values for variables of the chat template. */
  templateVariables?: Record<string, unknown>;
  signal?: AbortSignal;
}

/** What became of one span. */
export interface CompressedSpan {
  /** Rows [start, end) of the embeddings, without those of the markers. */
  readonly start: number;
  readonly end: number;
  /** Embedder tokens of the span; 0 = empty: its one row stays the model's own of <|memory|>. */
  readonly tokens: number;
}

export interface CompressedPrompt {
  /** [tokens, hidden] float32: a prompt of SteerModel.generate(). */
  readonly prompt: PromptEmbeddings;
  /** Token ids with the placeholders, [tokens]. */
  readonly tokens: Int32Array;
  readonly spans: readonly CompressedSpan[];
  /** What made it: checkpoint, hashes, settings. Goes into safetensors files. */
  readonly provenance: Readonly<Record<string, string>>;
}

interface Parts {
  checkpoint: MemoryCheckpoint;
  tokenizer: Tokenizer;
  embedTokenizer: Tokenizer;
  ids: MemoryTokenIds;
  projector: Projector;
  encoder: ChunkEncoder;
  rows: TokenRows;
}

/**
 * Compresses prompts with one checkpoint.
 *
 * @example
 * await using compressor = await PromptCompressor.load("./checkpoint");
 * const { prompt } = await compressor.compress("<|memory_start|>...<|memory_end|> Summarise this.");
 * await using model = await SteerModel.load(compressor.modelPath);
 * const { text } = await model.generate(prompt);
 */
export class PromptCompressor {
  readonly settings: CompressionSettings;
  /** Whether the checkpoint records its settings; if not, the chunk size given was believed. */
  readonly recorded: boolean;
  /** The language model of the checkpoint, for SteerModel.load(). */
  readonly modelPath: string;
  readonly #parts: Parts;
  readonly #identity: Record<string, string>;
  #disposed: Promise<void> | undefined;

  private constructor(parts: Parts) {
    const { checkpoint, encoder } = parts;
    this.#parts = parts;
    this.settings = checkpoint.settings;
    this.recorded = checkpoint.recorded;
    this.modelPath = modelPath(checkpoint.llm);
    const { chunkSize, window, pooling, site } = checkpoint.settings;
    this.#identity = {
      format: "chatspace-prompt-embeddings",
      version: "1",
      checkpoint: basename(resolve(checkpoint.folder)),
      chunk_size: `${chunkSize}`,
      window: `${window}`,
      pooling,
      embedder_site: site,
      embedder_sha256: encoder.weightHash,
      embedder_dtype: encoder.dtype,
      projector_sha256: sha256(...projectorBytes(checkpoint.projectors)),
      tokenizer_sha256: sha256(readFileSync(join(checkpoint.llm, "tokenizer.json"))),
    };
  }

  /**
   * @param folder with llm/, embedder/, projectors/, or with checkpoint_N folders that have them
   * @throws DataError ERR_MEMORY_CHECKPOINT, ERR_MEMORY_CHUNK_SIZE; ModelError ERR_MEMORY_TOKEN and what
   *   SteerModel.load throws; signal.reason
   */
  static async load(folder: string, options: CompressorOptions = {}): Promise<PromptCompressor> {
    const { chunkSize, tokenBudget, device, dtype, threads, signal, onProgress } = options;
    signal?.throwIfAborted();
    const checkpoint = openMemoryCheckpoint(
      checkString("PromptCompressor.load", folder),
      chunkSize === undefined ? {} : { chunkSize },
    );
    const { llm, embedder, settings } = checkpoint;
    const budget = checkTokenBudget(tokenBudget);
    const projector = new Projector(checkpoint.projectors, settings);
    const [tokenizer, embedTokenizer] = await Promise.all([loadTokenizer(llm), loadTokenizer(embedder)]);
    const ids = memoryTokenIds(tokenizer, llm);
    const load: LoadOptions = {
      ...(device === undefined ? {} : { device }),
      ...(dtype === undefined ? {} : { dtype }),
      ...(threads === undefined ? {} : { threads }),
      ...(signal === undefined ? {} : { signal }),
      ...(onProgress === undefined ? {} : { onProgress }),
    };
    const rows = await openTokenRows(llm, load);
    const owned: { dispose(): Promise<void> }[] = [rows];
    try {
      if (rows.hiddenSize !== projector.outputs)
        throw misfit(checkpoint.folder, "hidden size of llm/", projector.outputs, rows.hiddenSize);
      const encoder = await ChunkEncoder.load(embedder, settings, embedTokenizer, {
        tokenBudget: budget,
        model: { dtype: "float32", ...load },
      });
      owned.push(encoder);
      if (encoder.width !== projector.inputs)
        throw misfit(checkpoint.folder, "width of embedder/", projector.inputs, encoder.width);
      return new PromptCompressor({ checkpoint, tokenizer, embedTokenizer, ids, projector, encoder, rows });
    } catch (error) {
      await Promise.all(owned.map((part) => part.dispose()));
      throw error;
    }
  }

  /**
   * Embeddings of a text, or of a conversation in the model's chat format.
   *
   * @throws DataError ERR_MEMORY_NESTED, ERR_MEMORY_UNCLOSED, ERR_MEMORY_UNOPENED, ERR_MEMORY_COUNT;
   *   ModelError ERR_TEMPLATE_MISSING, ERR_TEMPLATE; TypeError ERR_MESSAGES; DisposedError; signal.reason
   */
  async compress(
    prompt: string | readonly ChatMessage[],
    options: CompressOptions = {},
  ): Promise<CompressedPrompt> {
    if (this.#disposed) throw new DisposedError("ERR_DISPOSED", "PromptCompressor is disposed");
    const { signal } = options;
    signal?.throwIfAborted();
    const { embedTokenizer, encoder, projector, rows, ids } = this.#parts;
    const plan =
      typeof prompt === "string" ? this.#planText(prompt, options) : this.#planChat(prompt, options);
    const spans = plan.memories.map((text) => embedTokenizer.encode(text, { addSpecialTokens: false }));
    const counts = spans.map((tokens) => rowsOf(tokens.length, this.settings.chunkSize));
    const tokens = plan.tokens(counts);
    if (tokens.length === 0)
      throw misuse(RangeError, "ERR_PROMPT_EMPTY", "prompt", "at least one token", prompt);
    const places = locatePlaceholders(tokens, counts, ids);
    const [embeddings, chunks] = await Promise.all([
      rows.rows(tokens, signal),
      encoder.encode(spans, signal).then((vectors) => projector.project(vectors, signal)),
    ]);
    const { hiddenSize } = rows;
    let chunk = 0;
    places.forEach(([start, end], span) => {
      if (spans[span]!.length === 0) return;
      const from = chunk * hiddenSize;
      embeddings.set(chunks.subarray(from, from + (end - start) * hiddenSize), start * hiddenSize);
      chunk += end - start;
    });
    return {
      prompt: { promptEmbeddings: embeddings, shape: [tokens.length, hiddenSize] },
      tokens,
      spans: places.map(([start, end], span) => ({ start, end, tokens: spans[span]!.length })),
      provenance: {
        ...this.#identity,
        prompt_sha256: sha256(typeof prompt === "string" ? prompt : JSON.stringify(prompt)),
        spans: JSON.stringify(places.map(([start, end], span) => [start, end, spans[span]!.length])),
      },
    };
  }

  #planText(text: string, options: CompressOptions): PromptPlan {
    const segments = parseMemorySpans(text);
    const { tokenizer } = this.#parts;
    const addSpecialTokens = options.addSpecialTokens ?? true;
    return {
      memories: memoriesOf(segments),
      tokens: (counts) => tokenizer.encode(expandSegments(segments, counts), { addSpecialTokens }),
    };
  }

  // The spans are replaced before the template sees the messages: templates trim and split what they are
  // given, and a memory must not change on the way.
  #planChat(given: readonly ChatMessage[], options: CompressOptions): PromptPlan {
    const messages = checkMessages("messages", given);
    const parsed = messages.map(({ content }, i) => parseMemorySpans(content, `messages[${i}]`));
    const { tokenizer } = this.#parts;
    const template = new ChatTemplate(tokenizer);
    const addSpecialTokens = options.addSpecialTokens ?? false;
    return {
      memories: parsed.flatMap(memoriesOf),
      tokens: (counts) => {
        let span = 0;
        const expanded = messages.map(({ role }, i) => {
          const own = memoriesOf(parsed[i]!).length;
          const content = expandSegments(parsed[i]!, counts.slice(span, span + own));
          span += own;
          return { role, content };
        });
        const text = template.render(expanded, { variables: options.templateVariables ?? {} });
        return tokenizer.encode(text, { addSpecialTokens });
      },
    };
  }

  /** Whether conversations can be compressed: the language model has a chat template. */
  get hasChatTemplate(): boolean {
    return this.#parts.tokenizer.chatTemplate !== undefined;
  }

  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /** Frees the embedder. Idempotent. */
  dispose(): Promise<void> {
    const { encoder, rows } = this.#parts;
    this.#disposed ??= Promise.all([encoder.dispose(), rows.dispose()]).then(() => undefined);
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** Insides of the spans, and the token ids once their rows are counted. */
interface PromptPlan {
  readonly memories: readonly string[];
  tokens(counts: readonly number[]): Int32Array;
}

function memoriesOf(segments: readonly PromptSegment[]): string[] {
  return segments.filter(({ kind }) => kind === "memory").map(({ text }) => text);
}

/** Whether a text has a memory span at all, for a word to someone who forgot the markers. */
export function hasMemory(text: string): boolean {
  return text.includes(MEMORY_START);
}

function sha256(...parts: (Uint8Array | string)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

function misfit(folder: string, what: string, expected: number, got: number): DataError {
  return new DataError(
    "ERR_MEMORY_CHECKPOINT",
    `${folder}: expected a ${what} of ${expected}, as projectors/ has, got ${got}`,
    {
      details: { folder, expected, got },
      remedies: ["Take llm/, embedder/ and projectors/ from one checkpoint."],
    },
  );
}
