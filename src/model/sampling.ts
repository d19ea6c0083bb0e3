// SPDX-License-Identifier: Apache-2.0
// The options that decide which token comes next and when to stop: their defaults, ranges and checks.

import { randomInt } from "node:crypto";
import { misuse } from "../errors.ts";
import type { NativeSampling } from "../native/contract.ts";
import { checkBoolean, checkNumber, checkTokenIds } from "../steering/check.ts";

export interface SamplingOptions {
  /** Most tokens to generate. Default 128. */
  maxTokens?: number;
  /** Stop ids are not chosen as the end before this many tokens. Default 0. */
  minTokens?: number;
  /** 0 (default) takes the most likely token; 1 samples the model's distribution. */
  temperature?: number;
  /** Sample among the k most likely; 0 (default) = all. */
  topK?: number;
  /** Sample among the most likely that hold this much probability; 1 (default) = all. */
  topP?: number;
  /** Leave out tokens less likely than this fraction of the likeliest; 0 (default) = none. */
  minP?: number;
  /** Above 1 makes tokens that have appeared less likely (Keskar et al. 2019). Default 1. */
  repetitionPenalty?: number;
  /** Taken from the logit of every token generated before. Default 0. */
  presencePenalty?: number;
  /** Taken from the logit as often as the token was generated before. Default 0. */
  frequencyPenalty?: number;
  /** Added to the logits of token ids. */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number>;
  /** Integer from 0 to 2^53 - 1. A random one is drawn, and reported, when left out. */
  seed?: number;
  /** Text that ends the answer; it is not part of it. */
  stop?: string | readonly string[];
  /** Token ids that end the answer beside the model's own. */
  stopIds?: readonly number[] | Int32Array;
  /** Go on past the model's end-of-sequence tokens. Default false. */
  ignoreEos?: boolean;
  /** Log-probabilities of the chosen token (0 or true), and of the k most likely as well (k). */
  logprobs?: number | boolean;
}

export const SAMPLING_KEYS = [
  "maxTokens",
  "minTokens",
  "temperature",
  "topK",
  "topP",
  "minP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "logitBias",
  "seed",
  "stop",
  "stopIds",
  "ignoreEos",
  "logprobs",
] as const;

export const DEFAULT_MAX_TOKENS = 128;
/** More alternatives a token than this are refused. */
const MAX_LOGPROBS = 1024;

export interface CompiledSampling {
  maxTokens: number;
  minTokens: number;
  stopIds: Int32Array;
  stop: string[];
  sampling: NativeSampling;
  logprobs: number;
}

/**
 * Checks the sampling options and fills in the defaults.
 * @param eosIds the model's own stop ids
 * @throws TypeError / RangeError with ERR_ARGUMENT_TYPE, ERR_ARGUMENT_RANGE, ERR_TOKEN_RANGE
 */
export function compileSampling(
  options: SamplingOptions,
  model: { vocabSize: number; eosIds: readonly number[] },
): CompiledSampling {
  const integer = (key: keyof SamplingOptions, otherwise: number, max = 2 ** 31 - 1) =>
    options[key] === undefined ? otherwise : checkNumber(key, options[key], { integer: true, min: 0, max });
  const real = (key: keyof SamplingOptions, otherwise: number, min?: number, max?: number, above = false) =>
    options[key] === undefined
      ? otherwise
      : checkNumber(key, options[key], {
          ...(min === undefined ? {} : { min }),
          ...(max === undefined ? {} : { max }),
          above,
        });
  const maxTokens = integer("maxTokens", DEFAULT_MAX_TOKENS);
  const minTokens = integer("minTokens", 0);
  if (minTokens > maxTokens)
    throw misuse(
      RangeError,
      "ERR_ARGUMENT_RANGE",
      "minTokens",
      `at most maxTokens (${maxTokens})`,
      minTokens,
    );
  const ignoreEos = options.ignoreEos === undefined ? false : checkBoolean("ignoreEos", options.ignoreEos);
  const extra =
    options.stopIds === undefined ? [] : checkTokenIds("stopIds", options.stopIds, model.vocabSize);
  const stopIds = new Set([...(ignoreEos ? [] : model.eosIds), ...extra]);
  return {
    maxTokens,
    minTokens,
    stopIds: Int32Array.from(stopIds),
    stop: stopStrings(options.stop),
    logprobs: logprobCount(options.logprobs),
    sampling: {
      temperature: real("temperature", 0, 0),
      topK: integer("topK", 0),
      topP: real("topP", 1, 0, 1, true),
      minP: real("minP", 0, 0, 1),
      repetitionPenalty: real("repetitionPenalty", 1, 0, undefined, true),
      presencePenalty: real("presencePenalty", 0),
      frequencyPenalty: real("frequencyPenalty", 0),
      seed: integer("seed", randomInt(2 ** 47), Number.MAX_SAFE_INTEGER),
      ...bias(options.logitBias, model.vocabSize),
    },
  };
}

/** Greedy, no stops: what a pass over the prompt alone needs. */
export function promptOnlySampling(): NativeSampling {
  return {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    seed: 0,
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
  };
}

function stopStrings(value: unknown): string[] {
  if (value === undefined) return [];
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.map((entry, index) => {
    if (typeof entry !== "string" || entry === "")
      throw misuse(TypeError, "ERR_ARGUMENT_TYPE", `stop[${index}]`, "a string that is not empty", entry);
    return entry;
  });
}

function logprobCount(value: unknown): number {
  if (value === undefined || value === false) return -1;
  if (value === true) return 0;
  return checkNumber("logprobs", value, { integer: true, min: 0, max: MAX_LOGPROBS });
}

function bias(value: unknown, vocabSize: number): Pick<NativeSampling, "biasIds" | "biasValues"> {
  if (value === undefined) return { biasIds: new Int32Array(0), biasValues: new Float32Array(0) };
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw misuse(TypeError, "ERR_ARGUMENT_TYPE", "logitBias", "an object from token id to number", value);
  const entries: [unknown, unknown][] = value instanceof Map ? [...value] : Object.entries(value);
  const biasIds = checkTokenIds(
    "logitBias",
    entries.map(([id]) => Number(id)),
    vocabSize,
  );
  const values = entries.map(([id, amount]) => checkNumber(`logitBias[${String(id)}]`, amount));
  return { biasIds, biasValues: Float32Array.from(values) };
}
