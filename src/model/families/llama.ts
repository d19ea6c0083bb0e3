// SPDX-License-Identifier: Apache-2.0
// Llama and its kin. The families here share the tree of modules and its weights; they differ in biases,
// head norms, windows, rope, fused matrices and constants, which a Variant says.

import { type ArchiveBuilder, float, type WeightOptions } from "./builder.ts";
import type { ConfigReader } from "./config-reader.ts";
import { activationOf, checkHeads, type DecoderShape, type Family } from "./family.ts";
import { ropeOf } from "./rope.ts";

type Attributes = Parameters<ArchiveBuilder["module"]>[2];
type Weight = ReturnType<ArchiveBuilder["weight"]>;

/** What a family does otherwise than Llama; everything is optional. */
export interface Variant {
  qkvBias?: boolean;
  outBias?: boolean;
  mlpBias?: boolean;
  /** "head": RMS norm of each head of q and k; "whole": of all heads at once. */
  qkNorm?: "head" | "whole";
  /** One matrix for q, k, v and one for gate and up. */
  fused?: boolean;
  /** Added to every norm weight. */
  normAddend?: number;
  /** Multiplies q.k; default headDim^-0.5. */
  scale?: number;
  softcap?: number;
  headDim?: number;
  tied?: boolean;
  act?: string;
  /** Window of a layer, 0 = none. */
  window?(layer: number): number;
  /** Rope of a layer; null = none. Default: the config's own for all. */
  ropeType?(layer: number): string | undefined | null;
  /** Norm weights of a layer: names in the checkpoint. Null = none. */
  norms?: { attn: string | null; mlp: string | null; attnPost: string | null; mlpPost: string | null };
  /** More attributes of the modules. */
  attributes?: { embed?: Attributes; attn?: Attributes; mlp?: Attributes; root?: Attributes };
  /** Adds the module `layers.N.mlp` itself and says so, or leaves it to the plain one. */
  mlp?(layer: number, path: string, from: string): boolean;
}

const LLAMA_NORMS = {
  attn: "input_layernorm",
  mlp: "post_attention_layernorm",
  attnPost: null,
  mlpPost: null,
};

export const llama: Family = {
  modelTypes: ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3"],
  source: "llama",
  plan: (config, build) => planLlamaLike(config, build, variantOf(config)),
};

/** The whole tree of a Llama-like decoder. */
export function planLlamaLike(config: ConfigReader, build: ArchiveBuilder, variant: Variant): DecoderShape {
  const layers = build.count(config, "num_hidden_layers", config.int("num_hidden_layers"));
  const hiddenSize = config.int("hidden_size");
  const vocabSize = config.int("vocab_size");
  const inner = config.int("intermediate_size");
  const heads = config.int("num_attention_heads");
  const kvHeads = config.int("num_key_value_heads", heads);
  checkHeads(config, heads, kvHeads, "num_key_value_heads");
  const headDim = config.int("head_dim", variant.headDim ?? Math.floor(hiddenSize / heads));
  const maxPositions = config.int("max_position_embeddings", 2048);
  const eps = float(config.float("rms_norm_eps", 1e-6));
  const act = variant.act ?? activationOf(config, "hidden_act", "silu");
  const { attributes = {}, norms = LLAMA_NORMS } = variant;
  const addend = variant.normAddend ?? 0;
  const qSize = heads * headDim;
  const kvSize = kvHeads * headDim;
  let contextLength = maxPositions;

  const embedding = "model.embed_tokens.weight";
  build.module("embed", "Embedding", { ...attributes.embed }, [
    build.weight("weight", embedding, [vocabSize, hiddenSize]),
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const path = `layers.${layer}`;
    const from = `model.layers.${layer}`;
    const ropeType = variant.ropeType ? variant.ropeType(layer) : undefined;
    const rope =
      ropeType === null
        ? null
        : ropeOf(config, {
            headDim,
            maxPositions,
            ...(ropeType === undefined ? {} : { layerType: ropeType }),
          });
    contextLength = Math.min(contextLength, rope?.maxPositions ?? contextLength);
    const index = build.attention({
      heads,
      kvHeads,
      headDim,
      rotaryDim: rope ? rope.inverseFrequencies.length * 2 : 0,
      rope: rope ? build.rope(rope) : -1,
      scale: variant.scale ?? headDim ** -0.5,
      softcap: variant.softcap ?? 0,
      window: variant.window?.(layer) ?? 0,
    });
    const norm = (name: string, hub: string | null): Weight[] =>
      hub === null ? [] : [build.weight(name, `${from}.${hub}.weight`, [hiddenSize], { addend })];
    const shape = { heads, kvHeads, headDim, hiddenSize, qSize, kvSize };
    build.module(`${path}.attn`, "Attention", { index, eps, ...attributes.attn }, [
      ...attentionWeights(build, `${from}.self_attn`, variant, shape, addend),
      ...norm("post_norm", norms.attnPost),
    ]);
    if (!variant.mlp?.(layer, `${path}.mlp`, from)) {
      const own = norms.mlpPost === null ? { act } : { act, eps };
      build.module(`${path}.mlp`, "MLP", { ...own, ...attributes.mlp }, [
        ...mlpWeights(build, `${from}.mlp`, variant, hiddenSize, inner),
        ...norm("post_norm", norms.mlpPost),
      ]);
    }
    build.module(path, "Layer", { eps }, [...norm("attn_norm", norms.attn), ...norm("mlp_norm", norms.mlp)]);
  }
  build.module("layers", "Layers", {}, []);
  build.module("norm", "Norm", { eps }, [
    build.weight("weight", "model.norm.weight", [hiddenSize], { addend }),
  ]);
  const tied = config.bool("tie_word_embeddings", variant.tied ?? false);
  build.module("", "Decoder", { ...attributes.root }, [
    build.weight("head", tied ? embedding : "lm_head.weight", [vocabSize, hiddenSize]),
  ]);
  return { layers, hiddenSize, vocabSize, contextLength, heads, kvHeads, headDim };
}

function attentionWeights(
  build: ArchiveBuilder,
  from: string,
  variant: Variant,
  shape: { hiddenSize: number; headDim: number; qSize: number; kvSize: number },
  addend: number,
): Weight[] {
  const { hiddenSize, headDim, qSize, kvSize } = shape;
  const of = qSize + 2 * kvSize;
  const part = (letter: string, size: number, first: number): Weight[] => {
    const options: WeightOptions = variant.fused ? { rows: { first, of } } : {};
    const name = variant.fused ? `${from}.qkv_proj` : `${from}.${letter}_proj`;
    return [
      build.weight(letter, `${name}.weight`, [size, hiddenSize], options),
      build.optional(`${letter}_bias`, variant.qkvBias ? `${name}.bias` : null, [size], options),
    ];
  };
  const normed = (letter: string, size: number): Weight => {
    const length = variant.qkNorm === "whole" ? size : headDim;
    const hub = variant.qkNorm ? `${from}.${letter}_norm.weight` : null;
    return variant.qkNorm === "whole"
      ? build.weight(`${letter}_norm`, hub!, [length], { addend })
      : build.optional(`${letter}_norm`, hub, [length], { addend });
  };
  return [
    ...part("q", qSize, 0),
    ...part("k", kvSize, qSize),
    ...part("v", kvSize, qSize + kvSize),
    build.weight("o", `${from}.o_proj.weight`, [hiddenSize, qSize]),
    build.optional("o_bias", variant.outBias ? `${from}.o_proj.bias` : null, [hiddenSize]),
    normed("q", qSize),
    normed("k", kvSize),
  ];
}

function mlpWeights(
  build: ArchiveBuilder,
  from: string,
  variant: Variant,
  hiddenSize: number,
  inner: number,
): Weight[] {
  const bias = (name: string) => (variant.mlpBias ? `${from}.${name}.bias` : null);
  const part = (name: string, first: number): Weight => {
    if (!variant.fused) return build.weight(name, `${from}.${name}_proj.weight`, [inner, hiddenSize]);
    const rows = { first, of: 2 * inner };
    return build.weight(name, `${from}.gate_up_proj.weight`, [inner, hiddenSize], { rows });
  };
  return [
    part("gate", 0),
    part("up", inner),
    build.weight("down", `${from}.down_proj.weight`, [hiddenSize, inner]),
    build.optional("gate_bias", bias("gate_proj"), [inner]),
    build.optional("up_bias", bias("up_proj"), [inner]),
    build.optional("down_bias", bias("down_proj"), [hiddenSize]),
  ];
}

function variantOf(config: ConfigReader): Variant {
  const type = config.string("model_type");
  const biased = ["llama", "qwen3", "smollm3"].includes(type) && config.bool("attention_bias", false);
  const noRope = type === "smollm3" ? config.list("no_rope_layers") : null;
  const interval = config.int("no_rope_layer_interval", 4);
  return {
    qkvBias: type === "qwen2" || biased,
    outBias: biased,
    mlpBias: config.bool("mlp_bias", false),
    fused: type === "phi3",
    ...(type === "qwen3" ? { qkNorm: "head" as const } : {}),
    window: windowsOf(config),
    // SmolLM3: a list of 1 (rotated) and 0, or every fourth layer without.
    ropeType: (layer) => {
      const rotated = noRope ? noRope[layer] !== 0 : (layer + 1) % interval !== 0;
      return type === "smollm3" && !rotated ? null : undefined;
    },
  };
}

/** Window of each layer as the families' configs say it, 0 = none. */
export function windowsOf(config: ConfigReader): (layer: number) => number {
  const type = config.string("model_type");
  if (!config.has("sliding_window") || type === "llama") return () => 0;
  const window = config.int("sliding_window");
  if (["mistral", "mixtral", "phi3"].includes(type)) return () => window;
  if (!config.bool("use_sliding_window", false)) return () => 0;
  const types = config.list("layer_types");
  if (types) return (layer) => (types[layer] === "sliding_attention" ? window : 0);
  const first = Number(config.raw("max_window_layers") ?? Number.POSITIVE_INFINITY);
  return (layer) => (layer >= first ? window : 0);
}
