// SPDX-License-Identifier: Apache-2.0
// GPT-2: fused q, k, v and Conv1D matrices ([in, out]) taken apart and turned.

import type { ArchiveBuilder } from "./builder.ts";
import { float } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";
import { activationOf, checkHeads, type DecoderShape, type Family } from "./family.ts";

export const gpt2: Family = { modelTypes: ["gpt2"], source: "gpt2", plan: planGpt2 };

function planGpt2(config: ConfigReader, build: ArchiveBuilder): DecoderShape {
  const layers = build.count(config, "n_layer", config.int("n_layer"));
  const hiddenSize = config.int("n_embd");
  const vocabSize = config.int("vocab_size");
  const heads = config.int("n_head");
  const inner = config.int("n_inner", 4 * hiddenSize);
  const contextLength = config.int("n_positions");
  checkHeads(config, hiddenSize, heads, "n_head");
  const headDim = hiddenSize / heads;
  const eps = float(config.float("layer_norm_epsilon", 1e-5));
  const act = activationOf(config, "activation_function", "gelu_new");
  const scaled = config.bool("scale_attn_weights", true);
  const byLayer = config.bool("scale_attn_by_inverse_layer_idx", false);

  const embedding = "transformer.wte.weight";
  build.module("embed", "Embedding", {}, [
    build.weight("weight", embedding, [vocabSize, hiddenSize]),
    build.weight("position", "transformer.wpe.weight", [contextLength, hiddenSize]),
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const path = `layers.${layer}`;
    const from = `transformer.h.${layer}`;
    const index = build.attention({
      heads,
      kvHeads: heads,
      headDim,
      rotaryDim: 0,
      rope: -1,
      scale: (scaled ? headDim ** -0.5 : 1) / (byLayer ? layer + 1 : 1),
    });
    const fused = `${from}.attn.c_attn`;
    const part = (name: string, which: number) => {
      const rows = { first: which * hiddenSize, of: 3 * hiddenSize };
      return [
        build.weight(name, `${fused}.weight`, [hiddenSize, hiddenSize], { transpose: true, rows }),
        build.weight(`${name}_bias`, `${fused}.bias`, [hiddenSize], { rows }),
      ];
    };
    const turned = { transpose: true };
    build.module(`${path}.attn`, "Attention", { index }, [
      ...part("q", 0),
      ...part("k", 1),
      ...part("v", 2),
      build.weight("o", `${from}.attn.c_proj.weight`, [hiddenSize, hiddenSize], turned),
      build.weight("o_bias", `${from}.attn.c_proj.bias`, [hiddenSize]),
    ]);
    build.module(`${path}.mlp`, "MLP", { act }, [
      build.weight("up", `${from}.mlp.c_fc.weight`, [inner, hiddenSize], turned),
      build.weight("up_bias", `${from}.mlp.c_fc.bias`, [inner]),
      build.weight("down", `${from}.mlp.c_proj.weight`, [hiddenSize, inner], turned),
      build.weight("down_bias", `${from}.mlp.c_proj.bias`, [hiddenSize]),
    ]);
    build.module(path, "Layer", { eps }, [
      build.weight("attn_norm", `${from}.ln_1.weight`, [hiddenSize]),
      build.weight("attn_norm_bias", `${from}.ln_1.bias`, [hiddenSize]),
      build.weight("mlp_norm", `${from}.ln_2.weight`, [hiddenSize]),
      build.weight("mlp_norm_bias", `${from}.ln_2.bias`, [hiddenSize]),
    ]);
  }
  build.module("layers", "Layers", {}, []);
  build.module("norm", "Norm", { eps }, [
    build.weight("weight", "transformer.ln_f.weight", [hiddenSize]),
    build.weight("bias", "transformer.ln_f.bias", [hiddenSize]),
  ]);
  const tied = config.bool("tie_word_embeddings", true);
  build.module("", "Decoder", {}, [
    build.weight("head", tied ? embedding : "lm_head.weight", [vocabSize, hiddenSize]),
  ]);
  return { layers, hiddenSize, vocabSize, contextLength, heads, kvHeads: heads, headDim };
}
