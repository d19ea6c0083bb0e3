// SPDX-License-Identifier: Apache-2.0
// Small GGUF models for tests, made from the golden safetensors checkpoints.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type GgufField, writeGguf } from "../../src/formats/gguf-writer.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { type FormatTensor, float32Tensor, toFloat32 } from "../../src/formats/tensor.ts";
import { shared } from "./golden.ts";

const DECODERS = shared("golden/decoders");

const LAYER_NAMES: Record<string, string> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "self_attn.qkv_proj": "attn_qkv",
  "mlp.gate_up_proj": "ffn_up",
};
const AROUND_NAMES: Record<string, string> = {
  ...LAYER_NAMES,
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};
const ROOT_NAMES: Record<string, string> = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  lm_head: "output",
};

function ggufName(name: string, architecture: string): string {
  const layerNames = /gemma|olmo/.test(architecture) ? AROUND_NAMES : LAYER_NAMES;
  const [, layer, inner, kind] = /^(?:model\.layers\.(\d+)\.)?(.*)\.(weight|bias)$/.exec(name)!;
  return layer === undefined ? `${ROOT_NAMES[inner!]}.${kind}` : `blk.${layer}.${layerNames[inner!]}.${kind}`;
}

// What llama.cpp's converter does to q and k: the two halves of a head are interleaved.
function interleave(tensor: FormatTensor, heads: number): FormatTensor {
  const rows = tensor.shape[0]!;
  const bytes = tensor.data.byteLength / rows;
  const headDim = rows / heads;
  const data = new Uint8Array(tensor.data.byteLength);
  for (let row = 0; row < rows; row++) {
    const [head, within] = [Math.floor(row / headDim), row % headDim];
    const from = head * headDim + (within % 2) * (headDim / 2) + Math.floor(within / 2);
    data.set(tensor.data.subarray(from * bytes, (from + 1) * bytes), row * bytes);
  }
  return { ...tensor, data };
}

/** A golden checkpoint as the GGUF file that llama.cpp's converter would make of it. */
export function writeGgufModel(family: string, architecture: string, path: string): void {
  const config = JSON.parse(readFileSync(join(DECODERS, family, "config.json"), "utf8"));
  const tensors = new Map<string, FormatTensor>();
  for (const [name, tensor] of readSafetensors(join(DECODERS, family, "model.safetensors")).tensors) {
    const swapped = ["llama", "granite"].includes(architecture) && /\.(q|k)_proj\./.test(name);
    const heads = name.includes("q_proj") ? config.num_attention_heads : config.num_key_value_heads;
    const added = architecture.startsWith("gemma") && name.endsWith("norm.weight");
    const values = added ? float32Tensor(toFloat32(tensor).map((value) => value + 1)) : tensor;
    tensors.set(ggufName(name, architecture), swapped ? interleave(tensor, heads) : values);
  }
  const number = (value: number): GgufField => ({ type: "uint32", value });
  const tokens = Array.from({ length: config.vocab_size }, (_, i) => `t${i}`);
  const fields: Record<string, GgufField> = {
    "general.architecture": { type: "string", value: architecture },
    [`${architecture}.block_count`]: number(config.num_hidden_layers),
    [`${architecture}.embedding_length`]: number(config.hidden_size),
    [`${architecture}.feed_forward_length`]: number(config.intermediate_size),
    [`${architecture}.context_length`]: number(config.max_position_embeddings),
    [`${architecture}.attention.head_count`]: number(config.num_attention_heads),
    [`${architecture}.attention.head_count_kv`]: number(config.num_key_value_heads),
    [`${architecture}.attention.key_length`]: number(
      config.head_dim ?? config.hidden_size / config.num_attention_heads,
    ),
    [`${architecture}.attention.layer_norm_rms_epsilon`]: { type: "float32", value: config.rms_norm_eps },
    [`${architecture}.rope.freq_base`]: {
      type: "float32",
      value: config.rope_parameters.rope_theta ?? config.rope_parameters.full_attention.rope_theta,
    },
    "tokenizer.ggml.model": { type: "string", value: "gpt2" },
    "tokenizer.ggml.tokens": { type: "array", element: "string", value: tokens },
    "tokenizer.ggml.merges": { type: "array", element: "string", value: [] },
  };
  for (const [key, value] of Object.entries({
    "attention.scale": config.attention_multiplier,
    embedding_scale: config.embedding_multiplier,
    residual_scale: config.residual_multiplier,
    logit_scale: config.logits_scaling,
    attn_logit_softcapping: config.attn_logit_softcapping,
    final_logit_softcapping: config.final_logit_softcapping,
    "attention.sliding_window": config.sliding_window,
  }))
    if (typeof value === "number") fields[`${architecture}.${key}`] = { type: "float32", value };
  writeFileSync(path, writeGguf(fields, tensors));
}
