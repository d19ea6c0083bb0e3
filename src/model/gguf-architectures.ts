// SPDX-License-Identifier: Apache-2.0
// What GGUF calls things, for each architecture: tensor names against Hugging Face's, metadata against
// config.json, and what llama.cpp's converter changes in the weights.
// Source: gguf-py's constants and convert_hf_to_gguf.py of llama.cpp.

import type { GgufReader } from "./gguf-reader.ts";

export interface GgufArchitecture {
  modelType: string;
  /** Names of GGUF tensors -> Hugging Face names; {i} is the layer. Without ".weight" / ".bias". */
  names: Readonly<Record<string, string>>;
  /** q and k rows are in interleaved rope order. */
  interleaved?: boolean;
  /** Norm weights already hold 1 + w. */
  added?: boolean;
  /** Matrices are turned against the checkpoint's own order. */
  turned?: boolean;
  /** Tensors [experts, rows, columns] -> one matrix an expert; {e} is the expert. */
  experts?: Readonly<Record<string, string>>;
  config?(read: GgufReader): Record<string, unknown>;
}

const LLAMA_NAMES = {
  token_embd: "model.embed_tokens",
  output: "lm_head",
  output_norm: "model.norm",
  "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
  "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
  "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
  "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
  "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
  "blk.{i}.attn_q_norm": "model.layers.{i}.self_attn.q_norm",
  "blk.{i}.attn_k_norm": "model.layers.{i}.self_attn.k_norm",
  "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
  "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
  "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
  "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
};

// Blocks normed after, too; "ffn_norm" is the norm before the MLP.
const GEMMA_NAMES = {
  ...LLAMA_NAMES,
  "blk.{i}.post_attention_norm": "model.layers.{i}.post_attention_layernorm",
  "blk.{i}.ffn_norm": "model.layers.{i}.pre_feedforward_layernorm",
  "blk.{i}.post_ffw_norm": "model.layers.{i}.post_feedforward_layernorm",
};

const PHI3_NAMES = {
  ...LLAMA_NAMES,
  "blk.{i}.attn_qkv": "model.layers.{i}.self_attn.qkv_proj",
  "blk.{i}.ffn_up": "model.layers.{i}.mlp.gate_up_proj",
};

const GPT2_NAMES = {
  token_embd: "transformer.wte",
  position_embd: "transformer.wpe",
  output: "lm_head",
  output_norm: "transformer.ln_f",
  "blk.{i}.attn_norm": "transformer.h.{i}.ln_1",
  "blk.{i}.attn_qkv": "transformer.h.{i}.attn.c_attn",
  "blk.{i}.attn_output": "transformer.h.{i}.attn.c_proj",
  "blk.{i}.ffn_norm": "transformer.h.{i}.ln_2",
  "blk.{i}.ffn_up": "transformer.h.{i}.mlp.c_fc",
  "blk.{i}.ffn_down": "transformer.h.{i}.mlp.c_proj",
};

const QWEN3_MOE_NAMES = { ...LLAMA_NAMES, "blk.{i}.ffn_gate_inp": "model.layers.{i}.mlp.gate" };
const QWEN3_MOE_EXPERTS = {
  "blk.{i}.ffn_gate_exps": "model.layers.{i}.mlp.experts.{e}.gate_proj",
  "blk.{i}.ffn_up_exps": "model.layers.{i}.mlp.experts.{e}.up_proj",
  "blk.{i}.ffn_down_exps": "model.layers.{i}.mlp.experts.{e}.down_proj",
};
const MIXTRAL_NAMES = {
  ...LLAMA_NAMES,
  "blk.{i}.ffn_gate_inp": "model.layers.{i}.block_sparse_moe.gate",
  // Files of before April 2024.
  "blk.{i}.ffn_gate.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w1",
  "blk.{i}.ffn_up.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w3",
  "blk.{i}.ffn_down.{e}": "model.layers.{i}.block_sparse_moe.experts.{e}.w2",
};
const MIXTRAL_EXPERTS = {
  "blk.{i}.ffn_gate_exps": "model.layers.{i}.block_sparse_moe.experts.{e}.w1",
  "blk.{i}.ffn_up_exps": "model.layers.{i}.block_sparse_moe.experts.{e}.w3",
  "blk.{i}.ffn_down_exps": "model.layers.{i}.block_sparse_moe.experts.{e}.w2",
};

const NEOX_NAMES = {
  token_embd: "gpt_neox.embed_in",
  output: "embed_out",
  output_norm: "gpt_neox.final_layer_norm",
  "blk.{i}.attn_norm": "gpt_neox.layers.{i}.input_layernorm",
  "blk.{i}.attn_qkv": "gpt_neox.layers.{i}.attention.query_key_value",
  "blk.{i}.attn_output": "gpt_neox.layers.{i}.attention.dense",
  "blk.{i}.ffn_norm": "gpt_neox.layers.{i}.post_attention_layernorm",
  "blk.{i}.ffn_up": "gpt_neox.layers.{i}.mlp.dense_h_to_4h",
  "blk.{i}.ffn_down": "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
};

// Mixtral is written as "llama" too; its experts show in the metadata.
const MIXTRAL: GgufArchitecture = {
  modelType: "mixtral",
  names: MIXTRAL_NAMES,
  experts: MIXTRAL_EXPERTS,
  interleaved: true,
  config: expertConfig,
};

/** What a file is written as, or undefined where no family of ours reads it. */
export function ggufArchitecture(name: string, experts: unknown): GgufArchitecture | undefined {
  if (name === "llama" && typeof experts === "number" && experts > 0) return MIXTRAL;
  return Object.hasOwn(GGUF_ARCHITECTURES, name) ? GGUF_ARCHITECTURES[name] : undefined;
}

export const GGUF_ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
  llama: { modelType: "llama", names: LLAMA_NAMES, interleaved: true, config: llamaConfig },
  qwen2: { modelType: "qwen2", names: LLAMA_NAMES },
  qwen3: { modelType: "qwen3", names: LLAMA_NAMES },
  smollm3: { modelType: "smollm3", names: LLAMA_NAMES, interleaved: true },
  granite: { modelType: "granite", names: LLAMA_NAMES, interleaved: true, config: graniteConfig },
  gemma: { modelType: "gemma", names: LLAMA_NAMES, added: true },
  gemma2: { modelType: "gemma2", names: GEMMA_NAMES, added: true, config: gemmaConfig },
  gemma3: { modelType: "gemma3_text", names: GEMMA_NAMES, added: true, config: gemma3Config },
  olmo2: { modelType: "olmo2", names: GEMMA_NAMES },
  phi3: { modelType: "phi3", names: PHI3_NAMES, config: phi3Config },
  gpt2: { modelType: "gpt2", names: GPT2_NAMES, turned: true, config: gpt2Config },
  gptneox: { modelType: "gpt_neox", names: NEOX_NAMES, config: neoxConfig },
  qwen3moe: {
    modelType: "qwen3_moe",
    names: QWEN3_MOE_NAMES,
    experts: QWEN3_MOE_EXPERTS,
    config: expertConfig,
  },
};

// Mistral is written as "llama" too, and biases show in the tensors alone.
function llamaConfig(read: GgufReader): Record<string, unknown> {
  return {
    attention_bias: read.header.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: read.header.tensors.has("blk.0.ffn_gate.bias"),
    hidden_act: "silu",
  };
}

function expertConfig(read: GgufReader): Record<string, unknown> {
  return {
    num_local_experts: read.number("expert_count"),
    num_experts_per_tok: read.number("expert_used_count"),
    moe_intermediate_size: read.optional("expert_feed_forward_length") ?? read.number("feed_forward_length"),
    // llama.cpp knows no other way for these two.
    norm_topk_prob: true,
    hidden_act: "silu",
  };
}

function neoxConfig(read: GgufReader): Record<string, unknown> {
  const headDim = read.number("embedding_length") / read.number("attention.head_count");
  const parallel = read.header.metadata.get("gptneox.use_parallel_residual");
  return {
    layer_norm_eps: read.optional("attention.layer_norm_epsilon"),
    rotary_pct: (read.optional("rope.dimension_count") ?? headDim) / headDim,
    use_parallel_residual: typeof parallel === "boolean" ? parallel : true,
    attention_bias: read.header.tensors.has("blk.0.attn_qkv.bias"),
    hidden_act: "gelu",
    // All q, all k, all v, where a checkpoint has q, k and v of a head side by side.
    qkv_by_head: false,
  };
}

function gpt2Config(read: GgufReader): Record<string, unknown> {
  return {
    n_layer: read.number("block_count"),
    n_embd: read.number("embedding_length"),
    n_head: read.number("attention.head_count"),
    n_inner: read.number("feed_forward_length"),
    n_positions: read.number("context_length"),
    layer_norm_epsilon: read.optional("attention.layer_norm_epsilon"),
    activation_function: "gelu_new",
  };
}

function graniteConfig(read: GgufReader): Record<string, unknown> {
  return {
    attention_multiplier: read.optional("attention.scale"),
    embedding_multiplier: read.optional("embedding_scale"),
    residual_multiplier: read.optional("residual_scale"),
    logits_scaling: read.optional("logit_scale"),
  };
}

// The scalar under the root is not stored: it is the head's width, but in the 27B models the hidden size
// by the heads, which llama.cpp tells by their number of layers.
function gemmaConfig(read: GgufReader): Record<string, unknown> {
  const isLargest = [46, 62].includes(read.number("block_count"));
  const perHead = read.number("embedding_length") / read.number("attention.head_count");
  return {
    query_pre_attn_scalar: isLargest ? perHead : read.optional("attention.key_length"),
    attn_logit_softcapping: read.optional("attn_logit_softcapping"),
    final_logit_softcapping: read.optional("final_logit_softcapping"),
  };
}

function gemma3Config(read: GgufReader): Record<string, unknown> {
  const factor =
    read.text("rope.scaling.type") === "linear" ? read.optional("rope.scaling.factor") : undefined;
  const theta = read.optional("rope.freq_base") ?? 1e6;
  return {
    ...gemmaConfig(read),
    rope_parameters: {
      full_attention: { rope_theta: theta, ...(factor ? { rope_type: "linear", factor } : {}) },
      sliding_attention: { rope_theta: read.optional("rope.freq_base_swa") ?? 10000 },
    },
  };
}

function phi3Config(read: GgufReader): Record<string, unknown> {
  const short = read.values("rope_factors_short.weight");
  if (!short) return {};
  const trained = read.optional("rope.scaling.original_context_length") ?? read.number("context_length");
  return {
    rope_parameters: {
      rope_theta: read.optional("rope.freq_base") ?? 10000,
      rope_type: "longrope",
      short_factor: short,
      original_max_position_embeddings: trained,
      attention_factor: read.optional("rope.scaling.attn_factor"),
    },
  };
}
