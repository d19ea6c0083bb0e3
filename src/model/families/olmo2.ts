// SPDX-License-Identifier: Apache-2.0
// OLMo 2: norms after the blocks, q and k normed whole.

import type { Family } from "./family.ts";
import { planLlamaLike } from "./llama.ts";

export const olmo2: Family = {
  modelTypes: ["olmo2"],
  source: "olmo2",
  plan(config, build) {
    const bias = config.bool("attention_bias", false);
    return planLlamaLike(config, build, {
      qkvBias: bias,
      outBias: bias,
      qkNorm: "whole",
      norms: {
        attn: null,
        mlp: null,
        attnPost: "post_attention_layernorm",
        mlpPost: "post_feedforward_layernorm",
      },
    });
  },
};
