// SPDX-License-Identifier: Apache-2.0
// GPT-NeoX and Pythia.

import type { ArchiveBuilder } from "./builder.ts";
import { float } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";
import { activationOf, checkHeads, type DecoderShape, type Family } from "./family.ts";
import { ropeOf } from "./rope.ts";

export const gptNeox: Family = { modelTypes: ["gpt_neox"], source: "gpt_neox", plan: planGptNeox };

function planGptNeox(config: ConfigReader, build: ArchiveBuilder): DecoderShape {
  const layers = build.count(config, "num_hidden_layers", config.int("num_hidden_layers"));
  const hiddenSize = config.int("hidden_size");
  const vocabSize = config.int("vocab_size");
  const inner = config.int("intermediate_size");
  const heads = config.int("num_attention_heads");
  checkHeads(config, hiddenSize, heads, "num_attention_heads");
  const headDim = hiddenSize / heads;
  const contextLength = config.int("max_position_embeddings");
  const eps = float(config.float("layer_norm_eps", 1e-5));
  const act = activationOf(config, "hidden_act", "gelu");
  const parallel = config.bool("use_parallel_residual", true);
  const biased = config.bool("attention_bias", true);
  // False in GGUF files, whose fused matrices have all q, all k, all v.
  const byHead = config.bool("qkv_by_head", true);
  // The old config spells its rope in words of its own.
  const rope = ropeOf(config, {
    headDim,
    maxPositions: contextLength,
    defaultTheta: config.float("rotary_emb_base", 10000),
    ...(config.has("rotary_pct") ? { partial: config.float("rotary_pct") } : {}),
  });
  const ropeIndex = build.rope(rope);

  build.module("embed", "Embedding", {}, [
    build.weight("weight", "gpt_neox.embed_in.weight", [vocabSize, hiddenSize]),
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const path = `layers.${layer}`;
    const from = `gpt_neox.layers.${layer}`;
    const index = build.attention({
      heads,
      kvHeads: heads,
      headDim,
      rotaryDim: rope.inverseFrequencies.length * 2,
      rope: ropeIndex,
      scale: headDim ** -0.5,
    });
    const attention = `${from}.attention`;
    build.module(`${path}.attn`, "Attention", { index, heads, head_dim: headDim, by_head: byHead }, [
      build.weight("qkv", `${attention}.query_key_value.weight`, [3 * hiddenSize, hiddenSize]),
      build.optional("qkv_bias", biased ? `${attention}.query_key_value.bias` : null, [3 * hiddenSize]),
      build.weight("o", `${attention}.dense.weight`, [hiddenSize, hiddenSize]),
      build.optional("o_bias", biased ? `${attention}.dense.bias` : null, [hiddenSize]),
    ]);
    build.module(`${path}.mlp`, "MLP", { act }, [
      build.weight("up", `${from}.mlp.dense_h_to_4h.weight`, [inner, hiddenSize]),
      build.weight("up_bias", `${from}.mlp.dense_h_to_4h.bias`, [inner]),
      build.weight("down", `${from}.mlp.dense_4h_to_h.weight`, [hiddenSize, inner]),
      build.weight("down_bias", `${from}.mlp.dense_4h_to_h.bias`, [hiddenSize]),
    ]);
    build.module(path, "Layer", { eps, parallel }, [
      build.weight("attn_norm", `${from}.input_layernorm.weight`, [hiddenSize]),
      build.weight("attn_norm_bias", `${from}.input_layernorm.bias`, [hiddenSize]),
      build.weight("mlp_norm", `${from}.post_attention_layernorm.weight`, [hiddenSize]),
      build.weight("mlp_norm_bias", `${from}.post_attention_layernorm.bias`, [hiddenSize]),
    ]);
  }
  build.module("layers", "Layers", {}, []);
  build.module("norm", "Norm", { eps }, [
    build.weight("weight", "gpt_neox.final_layer_norm.weight", [hiddenSize]),
    build.weight("bias", "gpt_neox.final_layer_norm.bias", [hiddenSize]),
  ]);
  const tied = config.bool("tie_word_embeddings", false);
  const head = tied ? "gpt_neox.embed_in.weight" : "embed_out.weight";
  build.module("", "Decoder", {}, [build.weight("head", head, [vocabSize, hiddenSize])]);
  return { layers, hiddenSize, vocabSize, contextLength, heads, kvHeads: heads, headDim };
}
