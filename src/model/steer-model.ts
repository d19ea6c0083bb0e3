// SPDX-License-Identifier: Apache-2.0
// SteerModel: a loaded decoder that can be run, steered and read. Owner of one native model; every
// method may be called at any time and any number of times at once, the engine batches what is there.

import { debuglog } from "node:util";
import type { NativeAddon, NativeModel, NativeStats } from "../native/contract.ts";
import { translateNativeError } from "../native/error-map.ts";
import { loadAddon } from "../native/loader.ts";
import { checkObject, checkString } from "../steering/check.ts";
import type { Site } from "../steering/sites.ts";
import {
  type CapturedFile,
  type CaptureFileOptions,
  captureToFile,
  FILE_CHUNK_BYTES,
  fileOrder,
} from "./capture-files.ts";
import {
  type CaptureRun,
  type CaptureStreamOptions,
  openCaptureOptions,
  openCaptureRun,
} from "./capture-run.ts";
import type { CaptureChunk } from "./capture-stream.ts";
import { type ChatOptions, openChat, prepareChat } from "./chat.ts";
import { type ChatResponse, chatResponse } from "./chat-response.ts";
import type { ChatMessage } from "./chat-template.ts";
import { generate, streamGeneration, type TextStream, textStream } from "./generation.ts";
import { compileLoad, defaultDevice, type LoadOptions, resolveQuantize } from "./load-options.ts";
import { archiveTokenizer, giveTokenBytes, loadTokenizer } from "./load-tokenizer.ts";
import { endOfSequenceIds, type ModelInfo, modelInfo } from "./model-info.ts";
import { forwardPass, scorePass } from "./passes.ts";
import { isPromptList, type Prompt } from "./prompt.ts";
import {
  compileGenerate,
  type ForwardOptions,
  GENERATE_KEYS,
  type GenerateOptions,
  openOptions,
  type RequestModel,
  type ScoreOptions,
} from "./request.ts";
import type { ForwardResult, GenerateResult, ScoreResult } from "./results.ts";
import { disposedError } from "./run.ts";
import { resolveModel } from "./store.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Bytes a loaded model holds, on its device. */
export interface MemoryUsage {
  device: string;
  weightBytes: number;
  /** Taken for keys and values. */
  cacheBytes: number;
  /** Of those, in use by running requests. */
  cacheBytesUsed: number;
  /** Of those, kept because their prefix may be wanted again; given up when room is needed. */
  cacheBytesKept: number;
  /** Captures and probe readings of requests that have not ended, in host memory. */
  captureBytes: number;
  /** Resident memory of the whole process. */
  processBytes: number;
}

const debug = debuglog("chatspace");

// Only a net: a model that is collected without dispose() is freed by the addon, and named here under
// NODE_DEBUG=chatspace.
const forgotten = new FinalizationRegistry<string>((name) => {
  debug("SteerModel %s was garbage-collected without dispose()", name);
});

/**
 * A decoder on one device.
 *
 * @example
 * await using model = await SteerModel.load("smollm2-135m-instruct");
 * const vector = await resolveVector("happy");
 * const { text } = await model.generate("Today I feel", { steering: [{ layer: 16, vector, scale: 2 }] });
 */
export class SteerModel {
  readonly info: Readonly<ModelInfo>;
  /** Places that can be steered and captured. */
  readonly sites: readonly Site[];
  /** undefined when the archive has none and none was given. */
  readonly tokenizer: Tokenizer | undefined;
  readonly #native: NativeModel;
  readonly #request: RequestModel;
  #disposed: Promise<void> | undefined;

  private constructor(
    native: NativeModel,
    place: { path: string; asked: string },
    tokenizer: Tokenizer | undefined,
    options: { strictVectors: boolean },
  ) {
    const found = native.info;
    const generation = native.extraFile("generation_config.json");
    const eosIds = endOfSequenceIds(found.metadata, generation, tokenizer, found.vocabSize);
    this.#native = native;
    this.info = modelInfo(found, place, eosIds);
    this.sites = found.sites;
    this.tokenizer = tokenizer;
    const { layers, vocabSize, hiddenSize, contextLength, weightHash, name } = this.info;
    this.#request = {
      ...{ name, weightHash, layers, vocabSize, hiddenSize, contextLength, tokenizer, eosIds },
      sites: this.sites,
      strictVectors: options.strictVectors,
    };
    forgotten.register(this, name, this);
  }

  /**
   * Loads a model: the path of an archive, a GGUF file or a Hugging Face folder, the name of a model in
   * the package or the catalogue, or org/name[@revision][:file] on a hub (pulled once).
   *
   * @throws EnvironmentError when the addon or libtorch is missing; ModelError when the file cannot be
   *   used; ServiceError / DataError when a hub does not give it; DeviceError when the device is absent or full; signal.reason.
   */
  static async load(pathOrName: string, options: LoadOptions = {}): Promise<SteerModel> {
    checkString("SteerModel.load", pathOrName);
    const load = compileLoad(options);
    const { signal, onProgress } = load;
    // The addon first: without it there is no point in a download.
    const addon: NativeAddon = loadAddon();
    const path = await resolveModel(pathOrName, {
      ...(onProgress ? { onProgress } : {}),
      ...(signal ? { signal } : {}),
    });
    const given = load.tokenizer === undefined ? undefined : await loadTokenizer(load.tokenizer);
    const device = load.native.device ?? defaultDevice(addon);
    const quantize = resolveQuantize(load.native, device);
    const native = await addon.load({ ...load.native, device, quantize, path }).catch((error: unknown) => {
      throw translateNativeError(error);
    });
    try {
      signal?.throwIfAborted();
      const tokenizer = given ?? archiveTokenizer(native);
      if (tokenizer) giveTokenBytes(native, tokenizer);
      return new SteerModel(native, { path, asked: pathOrName }, tokenizer, {
        strictVectors: load.strictVectors,
      });
    } catch (error) {
      await native.dispose();
      throw error;
    }
  }

  /**
   * Continues a prompt. A list of prompts runs as a batch; its options are one object for all, or a list
   * of the same length.
   *
   * @throws TypeError / RangeError / SteeringError for every mistake in the arguments, before any work;
   *   DisposedError; signal.reason.
   */
  generate(prompt: Prompt, options?: GenerateOptions): Promise<GenerateResult>;
  generate(
    prompts: readonly Prompt[],
    options?: GenerateOptions | readonly GenerateOptions[],
  ): Promise<GenerateResult[]>;
  async generate(
    prompt: Prompt | readonly Prompt[],
    options: GenerateOptions | readonly GenerateOptions[] = {},
  ): Promise<GenerateResult | GenerateResult[]> {
    const native = this.#live();
    if (!isPromptList(prompt)) {
      const opened = openOptions<GenerateOptions>("generate", options, GENERATE_KEYS);
      return generate(native, compileGenerate(this.#request, prompt, opened), this.tokenizer);
    }
    const each = perPrompt(prompt.length, options);
    // All are checked before the first one starts.
    const requests = prompt.map((one, index) => {
      const opened = openOptions<GenerateOptions>(`generate[${index}]`, each(index), GENERATE_KEYS);
      return compileGenerate(this.#request, one, opened);
    });
    return allOrAbort(requests, (request) => generate(native, request, this.tokenizer));
  }

  /**
   * Continues a prompt, chunk by chunk. Mistakes in the arguments are thrown here, at the call.
   *
   * @example
   * for await (const { text } of model.stream("Once upon a time")) process.stdout.write(text);
   */
  stream(prompt: Prompt, options: GenerateOptions = {}): TextStream {
    const native = this.#live();
    const opened = openOptions<GenerateOptions>("stream", options, GENERATE_KEYS);
    const request = compileGenerate(this.#request, prompt, opened);
    return textStream(streamGeneration(native, request, this.tokenizer));
  }

  /**
   * Answers a conversation in the model's own chat format.
   * @throws ModelError ERR_TEMPLATE_MISSING, ERR_TEMPLATE; TypeError ERR_MESSAGES; and as generate().
   */
  async chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Promise<ChatResponse> {
    const native = this.#live();
    const opened = openChat("chat", options);
    const chat = prepareChat(this.tokenizer, messages, opened);
    const request = compileGenerate(this.#request, { tokens: chat.tokens }, chat.options, chat.boundaries);
    return chatResponse(await generate(native, request, this.tokenizer), chat.prefill, chat.boundaries);
  }

  /** As chat(), chunk by chunk. */
  chatStream(messages: readonly ChatMessage[], options: ChatOptions = {}): TextStream {
    const native = this.#live();
    const opened = openChat("chatStream", options);
    const chat = prepareChat(this.tokenizer, messages, opened);
    const request = compileGenerate(this.#request, { tokens: chat.tokens }, chat.options, chat.boundaries);
    return textStream(streamGeneration(native, request, this.tokenizer));
  }

  /**
   * Hidden states of prompts as a stream: chunks of rows while the model runs, each prompt's answer after
   * its rows. Nothing is held for the run; a consumer that is slow makes the run wait, not the memory grow.
   * Leaving the loop ends it. Mistakes in the arguments are thrown here, at the call.
   *
   * @example
   * for await (const { prompt, captures, result } of model.captureStream(texts, { sites: [8, 16] }))
   *   if (!result) use(prompt, captures["layers.8"].positions, captures["layers.8"].data);
   */
  captureStream(
    prompts: Prompt | readonly Prompt[],
    options: CaptureStreamOptions,
  ): AsyncGenerator<CaptureChunk, void, undefined> {
    this.#live();
    return this.#captureRun(prompts, openCaptureOptions("captureStream", options)).stream();
  }

  /**
   * Hidden states of prompts to a file that is written while the model runs and appears when it is whole:
   * .safetensors, .arrow, or .npy for one site (docs/formats.md).
   *
   * @throws DataError ERR_FILE_WRITE; EnvironmentError ERR_DISK_FULL; and as captureStream().
   */
  async captureToFile(
    path: string,
    prompts: Prompt | readonly Prompt[],
    options: CaptureFileOptions,
  ): Promise<CapturedFile> {
    this.#live();
    const { dtype, onResult, ...rest } = checkObject("captureToFile", options) as Partial<CaptureFileOptions>;
    const opened = openCaptureOptions("captureToFile", rest);
    const order = opened.order ?? fileOrder(path);
    const run = this.#captureRun(prompts, { chunkBytes: FILE_CHUNK_BYTES, ...opened, order });
    const file = {
      ...(dtype === undefined ? {} : { dtype }),
      ...(onResult === undefined ? {} : { onResult }),
    };
    return captureToFile(path, run, this.#request, file);
  }

  #captureRun(prompts: Prompt | readonly Prompt[], options: Partial<CaptureStreamOptions>): CaptureRun {
    return openCaptureRun(() => this.#live(), this.#request, this.tokenizer, prompts, options);
  }

  /** Runs a prompt once, without generating: logits and captures. */
  async forward(prompt: Prompt, options: ForwardOptions = {}): Promise<ForwardResult> {
    return forwardPass(this.#live(), this.#request, prompt, options);
  }

  /** Log-probability of each token of a text given the ones before it, and the perplexity. */
  async score(prompt: Prompt, options: ScoreOptions = {}): Promise<ScoreResult> {
    return scorePass(this.#live(), this.#request, prompt, options);
  }

  /** Every submodule path of the archive with its class. */
  moduleTree(): { path: string; type: string }[] {
    return this.#live().moduleTree();
  }

  /** Queue, batch, cache and speed of the engine: counters since the load, rates over the last seconds. */
  stats(): NativeStats {
    return this.#live().stats();
  }

  /** Bytes this model holds now. */
  memoryUsage(): MemoryUsage {
    const { weightBytes, cacheBytes, cacheBlocks, captureBytes, ...stats } = this.stats();
    const block = cacheBlocks === 0 ? 0 : cacheBytes / cacheBlocks;
    return {
      device: this.info.device,
      ...{ weightBytes, cacheBytes, captureBytes },
      cacheBytesUsed: block * stats.cacheBlocksUsed,
      cacheBytesKept: block * stats.cacheBlocksKept,
      processBytes: process.memoryUsage.rss(),
    };
  }

  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /** Ends what runs (those calls reject with ERR_DISPOSED) and frees the memory. Idempotent. */
  dispose(): Promise<void> {
    forgotten.unregister(this);
    this.#disposed ??= this.#native.dispose();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #live(): NativeModel {
    if (this.#disposed === undefined) return this.#native;
    throw disposedError(`SteerModel ${this.info.name} is disposed`);
  }
}

function perPrompt(
  count: number,
  options: GenerateOptions | readonly GenerateOptions[],
): (index: number) => GenerateOptions | undefined {
  if (!Array.isArray(options)) return () => options as GenerateOptions;
  if (options.length !== count)
    throw Object.assign(
      new RangeError(`generate: expected options for each of ${count} prompts, got ${options.length}`),
      { code: "ERR_ARGUMENT_RANGE", details: { prompts: count, options: options.length } },
    );
  return (index) => options[index];
}

/** Runs all at once; when one fails the others are ended, not left to run on. */
async function allOrAbort<T extends { signal: AbortSignal | undefined }, R>(
  items: readonly T[],
  start: (item: T) => Promise<R>,
): Promise<R[]> {
  const failed = new AbortController();
  const running = items.map((item) => {
    const signal = item.signal ? AbortSignal.any([item.signal, failed.signal]) : failed.signal;
    return start({ ...item, signal });
  });
  try {
    return await Promise.all(running);
  } catch (error) {
    failed.abort(error);
    await Promise.allSettled(running);
    throw error;
  }
}
