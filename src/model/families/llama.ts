// SPDX-License-Identifier: Apache-2.0
// Llama and its kin: same source, differences in biases, head norms, windows and rope.

import type { ArchiveBuilder } from "./builder.ts";
import { float } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";
import { activationOf, checkHeads, type DecoderShape, type Family } from "./family.ts";
import { ropeOf } from "./rope.ts";

interface Traits {
  qkvBias: boolean;
  outBias: boolean;
  mlpBias: boolean;
  headNorm: boolean;
  /** Window of a layer, 0 = none. */
  window(layer: number): number;
  /** Layers without rotary embedding. */
  unrotated(layer: number): boolean;
}

export const llama: Family = {
  modelTypes: ["llama", "mistral", "qwen2", "qwen3", "smollm3"],
  source: "llama",
  plan: planLlama,
};

function planLlama(config: ConfigReader, build: ArchiveBuilder): DecoderShape {
  const layers = config.int("num_hidden_layers");
  const hiddenSize = config.int("hidden_size");
  const vocabSize = config.int("vocab_size");
  const inner = config.int("intermediate_size");
  const heads = config.int("num_attention_heads");
  const kvHeads = config.int("num_key_value_heads", heads);
  checkHeads(config, heads, kvHeads, "num_key_value_heads");
  const headDim = config.int("head_dim", Math.floor(hiddenSize / heads));
  const eps = float(config.float("rms_norm_eps", 1e-6));
  const act = activationOf(config, "hidden_act", "silu");
  const maxPositions = config.int("max_position_embeddings", 2048);
  const traits = traitsOf(config, layers);
  const rope = ropeOf(config, { headDim, maxPositions });
  const ropeIndex = build.rope(rope);
  const rotaryDim = rope.inverseFrequencies.length * 2;
  const qSize = heads * headDim;
  const kvSize = kvHeads * headDim;

  const embedding = "model.embed_tokens.weight";
  build.module("embed", "Embedding", {}, [build.weight("weight", embedding, [vocabSize, hiddenSize])]);
  for (let layer = 0; layer < layers; layer++) {
    const path = `layers.${layer}`;
    const from = `model.layers.${layer}`;
    const attn = `${from}.self_attn`;
    const mlp = `${from}.mlp`;
    const rotated = !traits.unrotated(layer);
    const index = build.attention({
      heads,
      kvHeads,
      headDim,
      rotaryDim: rotated ? rotaryDim : 0,
      rope: rotated ? ropeIndex : -1,
      scale: headDim ** -0.5,
      window: traits.window(layer),
    });
    const bias = (on: boolean, name: string) => (on ? `${name}.bias` : null);
    const norm = (name: string) => (traits.headNorm ? `${attn}.${name}.weight` : null);
    build.module(`${path}.attn`, "Attention", { index, eps }, [
      build.weight("q", `${attn}.q_proj.weight`, [qSize, hiddenSize]),
      build.weight("k", `${attn}.k_proj.weight`, [kvSize, hiddenSize]),
      build.weight("v", `${attn}.v_proj.weight`, [kvSize, hiddenSize]),
      build.weight("o", `${attn}.o_proj.weight`, [hiddenSize, qSize]),
      build.optional("q_bias", bias(traits.qkvBias, `${attn}.q_proj`), [qSize]),
      build.optional("k_bias", bias(traits.qkvBias, `${attn}.k_proj`), [kvSize]),
      build.optional("v_bias", bias(traits.qkvBias, `${attn}.v_proj`), [kvSize]),
      build.optional("o_bias", bias(traits.outBias, `${attn}.o_proj`), [hiddenSize]),
      build.optional("q_norm", norm("q_norm"), [headDim]),
      build.optional("k_norm", norm("k_norm"), [headDim]),
    ]);
    build.module(`${path}.mlp`, "MLP", { act }, [
      build.weight("gate", `${mlp}.gate_proj.weight`, [inner, hiddenSize]),
      build.weight("up", `${mlp}.up_proj.weight`, [inner, hiddenSize]),
      build.weight("down", `${mlp}.down_proj.weight`, [hiddenSize, inner]),
      build.optional("gate_bias", bias(traits.mlpBias, `${mlp}.gate_proj`), [inner]),
      build.optional("up_bias", bias(traits.mlpBias, `${mlp}.up_proj`), [inner]),
      build.optional("down_bias", bias(traits.mlpBias, `${mlp}.down_proj`), [hiddenSize]),
    ]);
    build.module(path, "Layer", { eps }, [
      build.weight("attn_norm", `${from}.input_layernorm.weight`, [hiddenSize]),
      build.weight("mlp_norm", `${from}.post_attention_layernorm.weight`, [hiddenSize]),
    ]);
  }
  build.module("layers", "Layers", {}, []);
  build.module("norm", "Norm", { eps }, [build.weight("weight", "model.norm.weight", [hiddenSize])]);
  const tied = config.bool("tie_word_embeddings", false);
  build.module("", "Decoder", {}, [
    build.weight("head", tied ? embedding : "lm_head.weight", [vocabSize, hiddenSize]),
  ]);
  const contextLength = Math.min(maxPositions, rope.maxPositions ?? maxPositions);
  return { layers, hiddenSize, vocabSize, contextLength, heads, kvHeads, headDim };
}

function traitsOf(config: ConfigReader, layers: number): Traits {
  const type = config.string("model_type");
  const attentionBias = type !== "qwen2" && type !== "mistral" && config.bool("attention_bias", false);
  const noRope = type === "smollm3" ? config.list("no_rope_layers") : null;
  const interval = config.int("no_rope_layer_interval", 4);
  return {
    qkvBias: type === "qwen2" || attentionBias,
    outBias: attentionBias,
    mlpBias: config.bool("mlp_bias", false),
    headNorm: type === "qwen3",
    window: windows(config, type, layers),
    // A list of 1 (rotated) and 0, or every fourth layer.
    unrotated: (layer) => type === "smollm3" && (noRope ? noRope[layer] === 0 : (layer + 1) % interval === 0),
  };
}

function windows(config: ConfigReader, type: string, layers: number): (layer: number) => number {
  if (!config.has("sliding_window") || type === "llama") return () => 0;
  const window = config.int("sliding_window");
  if (type === "mistral") return () => window;
  if (!config.bool("use_sliding_window", false)) return () => 0;
  const types = config.list("layer_types");
  if (types) return (layer) => (types[layer] === "sliding_attention" ? window : 0);
  const first = Number(config.raw("max_window_layers") ?? layers);
  return (layer) => (layer >= first ? window : 0);
}
