// SPDX-License-Identifier: Apache-2.0
// The smoke test as a function: three runs (baseline, steered, restored) and the checks that can fail.
// It passes only when steering changed the answer, left nothing behind, and acted with the norm asked for.

import type { GenerateOptions } from "../model/request.ts";
import type { AppliedOperation, GenerateResult } from "../model/results.ts";
import type { SteerModel } from "../model/steer-model.ts";
import { SteeringVector } from "../steering/vector.ts";

export interface SmokeOptions {
  prompt: string;
  layer: number;
  scale: number;
  vector: SteeringVector;
  maxTokens: number;
  seed: number;
  signal: AbortSignal;
}

export interface SmokeReport {
  model: string;
  device: string;
  dtype: string;
  prompt: string;
  vector: string;
  layer: number;
  scale: number;
  baseline: SmokeRun;
  steered: SmokeRun;
  restored: SmokeRun;
  /** Mean log-probability of the baseline's tokens, in nats per token, without and with steering. */
  logprob: { baseline: number; steered: number; shift: number };
  /** |scale * v|, and the mean |h' - h| counted where the addition happens. */
  norm: { asked: number; applied: number; relativeError: number };
  rowsTouched: number;
  checks: {
    steeredDiffers: boolean;
    restoredIsIdentical: boolean;
    normMatches: boolean;
    rowsWereTouched: boolean;
  };
  passed: boolean;
}

export interface SmokeRun {
  text: string;
  tokens: number[];
  ms: number;
}

/** Largest relative difference between the norm asked for and the norm that acted. */
const NORM_TOLERANCE = 1e-3;

export async function runSmoke(model: SteerModel, options: SmokeOptions): Promise<SmokeReport> {
  const { prompt, layer, scale, vector, maxTokens, seed, signal } = options;
  const steering = [{ layer, vector, scale }];
  const common: GenerateOptions = { maxTokens, seed, signal };
  const baseline = await timed(() => model.generate(prompt, common));
  const steered = await timed(() => model.generate(prompt, { ...common, steering }));
  const restored = await timed(() => model.generate(prompt, common));

  const tokens = { tokens: [...baseline.result.promptTokens, ...baseline.result.tokens] };
  const from = baseline.result.promptTokens.length;
  const plainScore = mean((await model.score(tokens, { signal })).logprobs.subarray(from));
  const steeredScore = mean((await model.score(tokens, { signal, steering })).logprobs.subarray(from));

  const applied = steered.result.steering[0];
  const site = model.info.layers > 0 ? steeredSite(model, layer) : layer;
  const asked = Math.abs(scale) * vector.norm({ site });
  const relativeError = asked === 0 ? Number.POSITIVE_INFINITY : Math.abs(meanChange(applied) / asked - 1);
  const checks = {
    steeredDiffers: !sameTokens(baseline.result, steered.result),
    restoredIsIdentical: sameTokens(baseline.result, restored.result),
    normMatches: relativeError <= NORM_TOLERANCE,
    rowsWereTouched: (applied?.rows ?? 0) > 0,
  };
  return {
    model: model.info.name,
    device: model.info.device,
    dtype: model.info.dtype,
    prompt,
    vector: vector.name,
    layer,
    scale,
    baseline: runOf(baseline),
    steered: runOf(steered),
    restored: runOf(restored),
    logprob: { baseline: plainScore, steered: steeredScore, shift: steeredScore - plainScore },
    norm: { asked, applied: meanChange(applied), relativeError },
    rowsTouched: applied?.rows ?? 0,
    checks,
    passed: Object.values(checks).every(Boolean),
  };
}

const CONTRAST = {
  positive: [
    "Tom was happy because",
    "She felt so happy today and",
    "They were happy and glad, so",
    "It was a happy day and",
  ],
  negative: [
    "Tom was sad because",
    "She felt so sad today and",
    "They were sad and sorry, so",
    "It was a sad day and",
  ],
};

/**
 * A happy-minus-sad direction of the model at hand, for models that no vector ships for: difference of
 * mean last-token states (as in contrastive activation addition, Rimsky et al. 2023) over four sentences
 * a side, scaled to a quarter of the median norm of those states so that it is felt in any model.
 */
export async function contrastVector(
  model: SteerModel,
  layer: number,
  signal: AbortSignal,
): Promise<SteeringVector> {
  const states = (texts: readonly string[]) =>
    Promise.all(
      texts.map(async (text) => {
        const capture = { sites: [layer], pool: "last" as const };
        const { captures } = await model.forward(text, { capture, logits: "none", signal });
        return Object.values(captures)[0]!.data;
      }),
    );
  const [positive, negative] = await Promise.all([states(CONTRAST.positive), states(CONTRAST.negative)]);
  const sum = new Float64Array(positive[0]!.length);
  const addMean = (rows: readonly Float32Array[], sign: number) => {
    for (const row of rows)
      for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + (sign * row[i]!) / rows.length;
  };
  addMean(positive, 1);
  addMean(negative, -1);
  const direction = new SteeringVector({
    name: "happy (made here)",
    directions: new Map([[layer < 0 ? model.info.layers + layer : layer, Array.from(sum)]]),
    method: "difference of mean last-token states, 4 + 4 sentences",
    model: { name: model.info.name, weightHash: model.info.weightHash },
  });
  const norms = [...positive, ...negative].map((row) => Math.hypot(...row)).sort((a, b) => a - b);
  const median = norms[norms.length >> 1]!;
  return direction
    .normalized()
    .times(median / 4)
    .named("happy (made here)");
}

function steeredSite(model: SteerModel, layer: number): number {
  return layer < 0 ? model.info.layers + layer : layer;
}

async function timed(run: () => Promise<GenerateResult>): Promise<{ result: GenerateResult; ms: number }> {
  const start = performance.now();
  const result = await run();
  return { result, ms: performance.now() - start };
}

function runOf({ result, ms }: { result: GenerateResult; ms: number }): SmokeRun {
  return { text: result.text, tokens: Array.from(result.tokens), ms };
}

function sameTokens(a: GenerateResult, b: GenerateResult): boolean {
  return a.tokens.length === b.tokens.length && a.tokens.every((id, i) => id === b.tokens[i]);
}

function meanChange(applied: AppliedOperation | undefined): number {
  return applied?.meanChangeNorm ?? 0;
}

function mean(values: Float32Array): number {
  return values.length === 0 ? 0 : values.reduce((sum, x) => sum + x, 0) / values.length;
}
