// SPDX-License-Identifier: Apache-2.0
// Gemma 1; Gemma 2 and the text decoder of Gemma 3: norms around the blocks, soft caps, alternating windows.

import { float } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";
import { activationOf, type Family } from "./family.ts";
import { planLlamaLike } from "./llama.ts";

const NORMS = {
  attn: "input_layernorm",
  attnPost: "post_attention_layernorm",
  mlp: "pre_feedforward_layernorm",
  mlpPost: "post_feedforward_layernorm",
};

/** Llama's layers with scaled embeddings and norms that multiply by 1 + w. */
export const gemma1: Family = {
  modelTypes: ["gemma"],
  source: "gemma1",
  plan(config, build) {
    const bias = config.bool("attention_bias", false);
    return planLlamaLike(config, build, {
      qkvBias: bias,
      outBias: bias,
      normAddend: 1,
      headDim: 256,
      tied: true,
      // Early configs say "gelu" and mean this.
      act: "gelu_tanh",
      attributes: { embed: { scale: embeddingScale(config) } },
    });
  },
};

export const gemma: Family = {
  modelTypes: ["gemma2", "gemma3_text"],
  source: "gemma",
  plan(config, build) {
    const isThird = config.string("model_type") === "gemma3_text";
    const bias = config.bool("attention_bias", false);
    const sliding = slidingLayers(config, isThird);
    const window = config.int("sliding_window", 4096);
    return planLlamaLike(config, build, {
      qkvBias: bias,
      outBias: bias,
      ...(isThird ? { qkNorm: "head" as const } : {}),
      normAddend: 1,
      scale: config.float("query_pre_attn_scalar", 256) ** -0.5,
      softcap: config.float("attn_logit_softcapping", 0),
      headDim: 256,
      tied: true,
      act: activationOf(config, "hidden_activation", "gelu_pytorch_tanh"),
      window: (layer) => (sliding(layer) ? window : 0),
      // Gemma 3 turns faster in its windows; Gemma 2 has one rope for all.
      ropeType: (layer) => (isThird ? (sliding(layer) ? "sliding_attention" : "full_attention") : undefined),
      norms: NORMS,
      attributes: {
        embed: { scale: embeddingScale(config) },
        root: { softcap: float(config.float("final_logit_softcapping", 0)) },
      },
    });
  },
};

function embeddingScale(config: ConfigReader): { float: number } {
  return float(Math.fround(Math.sqrt(config.int("hidden_size"))));
}

function slidingLayers(config: ConfigReader, isThird: boolean): (layer: number) => boolean {
  const types = config.list("layer_types");
  if (types) return (layer) => types[layer] === "sliding_attention";
  const pattern = config.int(
    "sliding_window_pattern",
    config.int("_sliding_window_pattern", isThird ? 6 : 2),
  );
  return (layer) => (layer + 1) % pattern !== 0;
}
