// SPDX-License-Identifier: Apache-2.0
// From checked options to one request of the engine. Everything that can be wrong with a call is found
// here, before the engine hears of it.

import { misuse } from "../errors.ts";
import type { NativeRequest } from "../native/contract.ts";
import { checkBoolean, checkKeys, checkObject } from "../steering/check.ts";
import { type CompiledProgram, compileProgram, type SteeringProgram } from "../steering/program.ts";
import type { SiteTable } from "../steering/sites.ts";
import { type CaptureOptions, compileCaptureHandler, compileCaptures } from "./capture-options.ts";
import type { MessageBoundary } from "./chat-template.ts";
import { compileProbes, type Probe } from "./probes.ts";
import { type EncodedPrompt, encodePrompt, messageBoundaries, type PromptModel } from "./prompt.ts";
import type { CaptureHandler } from "./run.ts";
import {
  type CompiledSampling,
  compileSampling,
  promptOnlySampling,
  SAMPLING_KEYS,
  type SamplingOptions,
} from "./sampling.ts";

/** Options every way of running the model takes. */
export interface RunOptions {
  /** What to change on the way; plain data, acts on this request alone. */
  steering?: SteeringProgram;
  /** Ends the request at the next step; its reason is what is thrown. */
  signal?: AbortSignal;
  /** Add the beginning-of-sequence token to texts. Default true; false for conversations. */
  addSpecialTokens?: boolean;
  /**
   * Take the longest prefix of the prompt from the cache on which this program acts in the same way
   * (default true). The answer is the same, on the CPU bit for bit; false computes every row.
   */
  reusePrefix?: boolean;
}

export interface GenerateOptions extends SamplingOptions, RunOptions {
  /** What to read on the way. */
  capture?: CaptureOptions;
  /** Named directions to read at every token, in the stream and in the result. */
  probes?: readonly Probe[];
}

export interface ForwardOptions extends RunOptions {
  capture?: CaptureOptions;
  probes?: readonly Probe[];
  /** Rows of logits that come back: of the last token (default), of all, or none. */
  logits?: "all" | "last" | "none";
}

export type ScoreOptions = RunOptions;

/** What a request is compiled against: the loaded model, as data. */
export interface RequestModel extends PromptModel, SiteTable {
  name: string;
  weightHash: string;
  strictVectors: boolean;
  eosIds: readonly number[];
}

export interface CompiledRequest {
  native: NativeRequest;
  program: CompiledProgram;
  prompt: EncodedPrompt;
  /** Names of the probes, in their order in the request. */
  probes: string[];
  /** Stop strings of a generation, for cutting the text. */
  stop: string[];
  signal: AbortSignal | undefined;
  /** Of a stream of captures. */
  onCaptures: CaptureHandler | undefined;
  /** Where the messages of a conversation lie, found when asked for; undefined for other prompts. */
  boundaries: () => readonly MessageBoundary[] | undefined;
}

const RUN_KEYS = ["steering", "signal", "addSpecialTokens", "reusePrefix"] as const;
export const GENERATE_KEYS = [...SAMPLING_KEYS, ...RUN_KEYS, "capture", "probes"] as const;
export const FORWARD_KEYS = [...RUN_KEYS, "capture", "probes", "logits"] as const;
export const SCORE_KEYS = RUN_KEYS;

/** Checks the shape of options and, before anything else, whether the signal has fired already. */
export function openOptions<T extends RunOptions>(
  where: string,
  given: unknown,
  keys: readonly string[],
): Partial<T> {
  const options = checkObject(where, given) as Partial<T>;
  const signal: unknown = options.signal;
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `${where}.signal`, "an AbortSignal", signal);
  signal?.throwIfAborted();
  checkKeys(where, options, keys);
  if (options.addSpecialTokens !== undefined)
    checkBoolean(`${where}.addSpecialTokens`, options.addSpecialTokens);
  return options;
}

export function compileGenerate(
  model: RequestModel,
  prompt: unknown,
  options: GenerateOptions,
  boundaries?: readonly MessageBoundary[],
): CompiledRequest {
  const sampling = compileSampling(options, model);
  const request = compile(model, prompt, options, { sampling, boundaries });
  if (sampling.stop.length > 0 && !model.tokenizer)
    throw misuse(TypeError, "ERR_TOKENIZER_MISSING", "stop", "a model with a tokenizer", "none");
  return request;
}

export function compilePass(
  model: RequestModel,
  prompt: unknown,
  options: ForwardOptions,
  want: { logits: "all" | "last" | "none"; promptLogprobs: boolean },
): CompiledRequest {
  const request = compile(model, prompt, options, {});
  request.native.logits = want.logits;
  request.native.promptLogprobs = want.promptLogprobs;
  return request;
}

function compile(
  model: RequestModel,
  given: unknown,
  options: RunOptions & { capture?: CaptureOptions; probes?: readonly Probe[] },
  known: { sampling?: CompiledSampling; boundaries?: readonly MessageBoundary[] | undefined },
): CompiledRequest {
  const { sampling } = known;
  const prompt = encodePrompt(given, model, options);
  const promptLength = prompt.tokens.length;
  const vectors = { ...model, modelName: model.name };
  const program = compileProgram(options.steering, { ...vectors, promptLength });
  const probes = compileProbes(options.probes, { ...vectors, warnings: program.warnings });
  const encoder = new TextEncoder();
  let found = known.boundaries;
  const boundaries = () => {
    found ??= messageBoundaries(given, prompt.tokens, model);
    return found;
  };
  const captures = compileCaptures(options.capture, model, promptLength, boundaries);
  const { stream, onCaptures } = compileCaptureHandler(options.capture);
  return {
    program,
    prompt,
    probes: probes.names,
    stop: sampling?.stop ?? [],
    signal: options.signal,
    onCaptures,
    boundaries,
    native: {
      ...prompt,
      maxTokens: sampling?.maxTokens ?? 0,
      minTokens: sampling?.minTokens ?? 0,
      stopIds: sampling?.stopIds ?? new Int32Array(0),
      stopBytes: (sampling?.stop ?? []).map((text) => encoder.encode(text)),
      sampling: sampling?.sampling ?? promptOnlySampling(),
      logprobs: sampling?.logprobs ?? -1,
      promptLogprobs: false,
      reuse: options.reusePrefix === undefined ? true : checkBoolean("reusePrefix", options.reusePrefix),
      logits: "none",
      program: program.operations,
      captures,
      stream,
      probes: probes.native,
    },
  };
}
