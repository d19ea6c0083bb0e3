// SPDX-License-Identifier: Apache-2.0
// Passes over a prompt that generate nothing: forward() for logits and captures, score() for likelihood.

import { misuse } from "../errors.ts";
import type { NativeModel } from "../native/contract.ts";
import { checkOneOf } from "../steering/check.ts";
import type { Prompt } from "./prompt.ts";
import {
  type CompiledRequest,
  compilePass,
  FORWARD_KEYS,
  type ForwardOptions,
  openOptions,
  type RequestModel,
  SCORE_KEYS,
  type ScoreOptions,
} from "./request.ts";
import {
  appliedSteering,
  captureResults,
  type ForwardResult,
  probeResults,
  type ScoreResult,
  usageAndTiming,
} from "./results.ts";
import { runToEnd } from "./run.ts";

const LOGITS = ["all", "last", "none"] as const;

export async function forwardPass(
  native: NativeModel,
  model: RequestModel,
  prompt: Prompt,
  given: ForwardOptions,
): Promise<ForwardResult> {
  const options = openOptions<ForwardOptions>("forward", given, FORWARD_KEYS);
  const logits = checkOneOf("logits", options.logits ?? "last", LOGITS);
  return runForward(native, model, compilePass(model, prompt, options, { logits, promptLogprobs: false }));
}

export async function runForward(
  native: NativeModel,
  model: RequestModel,
  request: CompiledRequest,
): Promise<ForwardResult> {
  const { done } = await runToEnd(native, request.native, request.signal, request.onCaptures);
  return {
    tokens: request.prompt.tokens,
    logits: done.logits,
    shape: [done.logits.length / model.vocabSize, model.vocabSize],
    captures: captureResults(done.captures),
    ...probeResults(request.probes, done),
    ...appliedSteering(request.program, done),
    ...usageAndTiming(done),
  };
}

export async function scorePass(
  native: NativeModel,
  model: RequestModel,
  prompt: Prompt,
  given: ScoreOptions,
): Promise<ScoreResult> {
  const options = openOptions<ScoreOptions>("score", given, SCORE_KEYS);
  const request = compilePass(model, prompt, options, { logits: "none", promptLogprobs: true });
  if (request.prompt.tokens.length < 2)
    throw misuse(
      RangeError,
      "ERR_ARGUMENT_RANGE",
      "score",
      "at least two tokens",
      request.prompt.tokens.length,
    );
  if (request.prompt.embeddings)
    throw misuse(
      TypeError,
      "ERR_ARGUMENT_TYPE",
      "score",
      "tokens or text",
      "embeddings, which have no likelihood",
    );
  const { done } = await runToEnd(native, request.native, request.signal);
  let sum = 0;
  for (let i = 1; i < done.promptLogprobs.length; i++) sum -= done.promptLogprobs[i]!;
  const meanNll = sum / (request.prompt.tokens.length - 1);
  return {
    tokens: request.prompt.tokens,
    logprobs: done.promptLogprobs,
    meanNll,
    perplexity: Math.exp(meanNll),
    ...appliedSteering(request.program, done),
    ...usageAndTiming(done),
  };
}
