// SPDX-License-Identifier: Apache-2.0
// Granite: Llama with constants on embedding, residual branches, attention and logits.

import { float } from "./builder.ts";
import type { Family } from "./family.ts";
import { planLlamaLike } from "./llama.ts";

export const granite: Family = {
  modelTypes: ["granite"],
  source: "granite",
  plan(config, build) {
    const bias = config.bool("attention_bias", false);
    const residual = { multiplier: float(config.float("residual_multiplier", 1)) };
    return planLlamaLike(config, build, {
      qkvBias: bias,
      outBias: bias,
      mlpBias: config.bool("mlp_bias", false),
      scale: config.float("attention_multiplier", 1),
      attributes: {
        embed: { multiplier: float(config.float("embedding_multiplier", 1)) },
        attn: residual,
        mlp: residual,
        root: { scaling: float(config.float("logits_scaling", 1)) },
      },
    });
  },
};
