// SPDX-License-Identifier: Apache-2.0
// Small GGUF models for tests, made from the golden safetensors checkpoints.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type GgufValue, readGgufTensors } from "../../src/formats/gguf.ts";
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
  "mlp.gate": "ffn_gate_inp",
  "block_sparse_moe.gate": "ffn_gate_inp",
  "mlp.experts.gate_proj": "ffn_gate_exps",
  "mlp.experts.up_proj": "ffn_up_exps",
  "mlp.experts.down_proj": "ffn_down_exps",
  "block_sparse_moe.experts.w1": "ffn_gate_exps",
  "block_sparse_moe.experts.w3": "ffn_up_exps",
  "block_sparse_moe.experts.w2": "ffn_down_exps",
  "attention.query_key_value": "attn_qkv",
  "attention.dense": "attn_output",
  "mlp.dense_h_to_4h": "ffn_up",
  "mlp.dense_4h_to_h": "ffn_down",
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
  "gpt_neox.embed_in": "token_embd",
  "gpt_neox.final_layer_norm": "output_norm",
  embed_out: "output",
};

function ggufName(name: string, architecture: string): string {
  const layerNames = /gemma\d|olmo/.test(architecture) ? AROUND_NAMES : LAYER_NAMES;
  const [, layer, inner, kind] = /^(?:(?:model|gpt_neox)\.layers\.(\d+)\.)?(.*)\.(weight|bias)$/.exec(name)!;
  // As files were before the experts of a layer became one tensor.
  const expert = /^(.*\.experts)\.(\d+)\.(.*)$/.exec(inner!);
  if (expert) {
    const part = LAYER_NAMES[`${expert[1]}.${expert[3]}`]!.replace("_exps", "");
    return `blk.${layer}.${part}.${expert[2]}.${kind}`;
  }
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

/** GPT-NeoX's rows [head, (q, k, v), width] as [(q, k, v), head, width]. */
function byPart(tensor: FormatTensor, heads: number): FormatTensor {
  const rows = tensor.shape[0]!;
  const bytes = tensor.data.byteLength / rows;
  const width = rows / heads / 3;
  const data = new Uint8Array(tensor.data.byteLength);
  for (let row = 0; row < rows; row++) {
    const [head, part, at] = [Math.floor(row / (3 * width)), Math.floor(row / width) % 3, row % width];
    data.set(
      tensor.data.subarray(row * bytes, (row + 1) * bytes),
      ((part * heads + head) * width + at) * bytes,
    );
  }
  return { ...tensor, data };
}

/** The experts' matrices of a layer as one tensor [experts, rows, columns], by a name without the number. */
function stackExperts(tensors: ReadonlyMap<string, FormatTensor>): Map<string, FormatTensor> {
  const stacked = new Map<string, FormatTensor>();
  const parts = new Map<string, FormatTensor[]>();
  for (const [name, tensor] of tensors) {
    const expert = /^(.*\.experts)\.(\d+)(\..*)$/.exec(name);
    if (!expert) {
      stacked.set(name, tensor);
      continue;
    }
    const whole = `${expert[1]}${expert[3]}`;
    const list = parts.get(whole) ?? [];
    list[Number(expert[2])] = tensor;
    parts.set(whole, list);
  }
  for (const [name, list] of parts)
    stacked.set(name, {
      dtype: list[0]!.dtype,
      shape: [list.length, ...list[0]!.shape],
      data: Buffer.concat(list.map(({ data }) => data)),
    });
  return stacked;
}

/** A golden checkpoint as the GGUF file that llama.cpp's converter would make of it. */
export function writeGgufModel(
  family: string,
  architecture: string,
  path: string,
  decoders: string = DECODERS,
  stacked = true,
): void {
  const config = JSON.parse(readFileSync(join(decoders, family, "config.json"), "utf8"));
  const tensors = new Map<string, FormatTensor>();
  const interleaved = ["llama", "granite", "smollm3"].includes(architecture);
  const checkpoint = readSafetensors(join(decoders, family, "model.safetensors")).tensors;
  for (const [name, tensor] of stacked ? stackExperts(checkpoint) : checkpoint) {
    if (name.includes("query_key_value")) {
      tensors.set(ggufName(name, architecture), byPart(tensor, config.num_attention_heads));
      continue;
    }
    const swapped = interleaved && /\.(q|k)_proj\./.test(name);
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
    [`${architecture}.attention.head_count_kv`]: number(
      config.num_key_value_heads ?? config.num_attention_heads,
    ),
    [`${architecture}.attention.key_length`]: number(
      config.head_dim ?? config.hidden_size / config.num_attention_heads,
    ),
    [`${architecture}.attention.layer_norm_rms_epsilon`]: {
      type: "float32",
      value: config.rms_norm_eps ?? 0,
    },
    [`${architecture}.attention.layer_norm_epsilon`]: { type: "float32", value: config.layer_norm_eps ?? 0 },
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
  for (const [key, value] of Object.entries({
    expert_count: config.num_local_experts,
    expert_used_count: config.num_experts_per_tok,
    expert_feed_forward_length: config.moe_intermediate_size,
    "rope.dimension_count":
      architecture === "gptneox" &&
      Math.floor(
        config.rope_parameters.partial_rotary_factor * (config.hidden_size / config.num_attention_heads),
      ),
  }))
    if (typeof value === "number") fields[`${architecture}.${key}`] = number(value);
  if (architecture === "gptneox")
    fields["gptneox.use_parallel_residual"] = { type: "bool", value: config.use_parallel_residual };
  writeFileSync(path, writeGguf(fields, tensors));
}

/** A GGUF file cut as llama.cpp's gguf-split does: the first part has the metadata, each some tensors. */
export function writeGgufParts(file: string, stem: string, count: number): string[] {
  const { metadata, tensors } = readGgufTensors(file);
  const names = [...tensors.keys()];
  const each = Math.ceil(names.length / count);
  return Array.from({ length: count }, (_, index) => {
    const number = (part: number) => String(part).padStart(5, "0");
    const path = `${stem}-${number(index + 1)}-of-${number(count)}.gguf`;
    const fields: Record<string, GgufField> = {
      "split.no": { type: "uint16", value: index },
      "split.count": { type: "uint16", value: count },
    };
    if (index === 0) for (const [key, value] of metadata) fields[key] = fieldOf(value);
    const some = names
      .slice(index * each, (index + 1) * each)
      .map((name) => [name, tensors.get(name)!] as const);
    writeFileSync(path, writeGguf(fields, new Map(some)));
    return path;
  });
}

function fieldOf(value: GgufValue): GgufField {
  if (typeof value === "string") return { type: "string", value };
  if (typeof value === "boolean") return { type: "bool", value };
  if (Array.isArray(value)) return { type: "array", element: "string", value: value as string[] };
  return Number.isInteger(value) && Number(value) > 1
    ? { type: "uint32", value: Number(value) }
    : { type: "float32", value: Number(value) };
}
