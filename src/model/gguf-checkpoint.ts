// SPDX-License-Identifier: Apache-2.0
// A GGUF file as a checkpoint: its metadata as a Hugging Face config, its tensors under Hugging Face
// names. What llama.cpp changes in the weights (row order for rope, GPT-2's transposes, Gemma's norms)
// is noted per weight, so that the families need not know where a checkpoint came from.

import { ModelError } from "../errors.ts";
import { openSource } from "../formats/byte-source.ts";
import { type GgufHeader, type GgufValue, readGgufHeader, readGgufTensor } from "../formats/gguf.ts";
import { toFloat32 } from "../formats/tensor.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { CheckpointWeight } from "./families/builder.ts";
import { ConfigReader } from "./families/config-reader.ts";

interface GgufArchitecture {
  modelType: string;
  /** Names of GGUF tensors -> Hugging Face names; {i} is the layer. Without ".weight" / ".bias". */
  names: Readonly<Record<string, string>>;
  /** q and k rows are in interleaved rope order. */
  interleaved?: boolean;
  /** Norm weights already hold 1 + w. */
  added?: boolean;
  /** Matrices are turned against the checkpoint's own order. */
  turned?: boolean;
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

const ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
  llama: { modelType: "llama", names: LLAMA_NAMES, interleaved: true, config: llamaConfig },
  qwen2: { modelType: "qwen2", names: LLAMA_NAMES },
  qwen3: { modelType: "qwen3", names: LLAMA_NAMES },
  gpt2: { modelType: "gpt2", names: GPT2_NAMES, turned: true, config: gpt2Config },
};

/** Reads a GGUF file. Throws ERR_GGUF, ERR_CONFIG, ERR_GGUF_ARCHITECTURE. */
export function openGguf(file: string): Checkpoint & { header: GgufHeader } {
  const header = readGgufHeader(file);
  const name = String(header.metadata.get("general.architecture"));
  const architecture = Object.hasOwn(ARCHITECTURES, name) ? ARCHITECTURES[name] : undefined;
  if (!architecture) {
    const known = Object.keys(ARCHITECTURES);
    throw new ModelError(
      "ERR_GGUF_ARCHITECTURE",
      `${file}: GGUF architecture "${name}" is not one that can be converted; known are ${known.join(", ")}`,
      {
        details: { file, architecture: name, known },
        remedies: [
          "Convert from the model's Hugging Face folder, or export it with scripts/py/export_torchscript.py.",
        ],
      },
    );
  }
  const read = new GgufReader(file, name, header);
  const heads = read.number("attention.head_count");
  const kvHeads = read.optional("attention.head_count_kv") ?? heads;
  const weights = new Map<string, CheckpointWeight>();
  for (const entry of header.tensors.values()) {
    const hubName = huggingFaceName(architecture, entry.name);
    if (!hubName) continue;
    const isQuery = /\.attn_q\.(weight|bias)$/.test(entry.name);
    const isKey = /\.attn_k\.(weight|bias)$/.test(entry.name);
    weights.set(hubName, {
      file,
      offset: entry.offset,
      bytes: entry.bytes,
      type: entry.type,
      shape: entry.shape,
      ...(architecture.interleaved && (isQuery || isKey) ? { ropeHeads: isQuery ? heads : kvHeads } : {}),
      ...(architecture.turned ? { turned: true } : {}),
      ...(architecture.added && entry.name.endsWith("norm.weight") ? { added: true } : {}),
    });
  }
  const config = { ...commonConfig(read, architecture), ...architecture.config?.(read) };
  return { format: "gguf", config: new ConfigReader(file, config), weights, files: [file], header };
}

function huggingFaceName(architecture: GgufArchitecture, name: string): string | null {
  const parts = /^(.*)\.(weight|bias)$/.exec(name);
  if (!parts) return null;
  const layer = /^blk\.(\d+)\./.exec(parts[1]!)?.[1];
  const pattern = layer === undefined ? parts[1]! : parts[1]!.replace(`blk.${layer}.`, "blk.{i}.");
  const hub = Object.hasOwn(architecture.names, pattern) ? architecture.names[pattern]! : null;
  return hub === null ? null : `${hub.replace("{i}", layer ?? "")}.${parts[2]}`;
}

function commonConfig(read: GgufReader, architecture: GgufArchitecture): Record<string, unknown> {
  const hidden = read.number("embedding_length");
  const heads = read.number("attention.head_count");
  return {
    model_type: architecture.modelType,
    num_hidden_layers: read.number("block_count"),
    hidden_size: hidden,
    intermediate_size: read.number("feed_forward_length"),
    num_attention_heads: heads,
    num_key_value_heads: read.optional("attention.head_count_kv") ?? heads,
    head_dim: read.optional("attention.key_length") ?? Math.floor(hidden / heads),
    vocab_size: read.vocabSize(),
    max_position_embeddings: read.number("context_length"),
    rms_norm_eps: read.optional("attention.layer_norm_rms_epsilon"),
    sliding_window: read.optional("attention.sliding_window"),
    tie_word_embeddings: !read.header.tensors.has("output.weight"),
    rope_parameters: ropeParameters(read),
  };
}

function ropeParameters(read: GgufReader): Record<string, unknown> {
  const theta = read.optional("rope.freq_base") ?? 10000;
  const type = read.text("rope.scaling.type");
  const factor = read.optional("rope.scaling.factor");
  const plain = { rope_theta: theta, rope_type: "default" };
  const factors = read.values("rope_freqs.weight");
  if (factors) return { ...plain, rope_type: "factors", factors };
  if (type === "yarn")
    return {
      rope_theta: theta,
      rope_type: "yarn",
      factor,
      original_max_position_embeddings: read.optional("rope.scaling.original_context_length"),
    };
  return type === "linear" && factor !== undefined ? { ...plain, rope_type: "linear", factor } : plain;
}

// Mistral is written as "llama" too, and biases show in the tensors alone.
function llamaConfig(read: GgufReader): Record<string, unknown> {
  return {
    attention_bias: read.header.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: read.header.tensors.has("blk.0.ffn_gate.bias"),
    hidden_act: "silu",
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

/** Metadata of one architecture, by its short keys. */
class GgufReader {
  readonly header: GgufHeader;
  private readonly file: string;
  private readonly prefix: string;

  constructor(file: string, prefix: string, header: GgufHeader) {
    this.file = file;
    this.prefix = prefix;
    this.header = header;
  }

  number(key: string): number {
    const value = this.optional(key);
    if (value !== undefined) return value;
    throw this.bad(key, "a number", undefined);
  }

  optional(key: string): number | undefined {
    const value = this.header.metadata.get(`${this.prefix}.${key}`);
    if (value === undefined || typeof value === "number") return value;
    // Some writers give a list with one value per layer; it has to be the same one.
    if (Array.isArray(value) && value.length > 0 && value.every((item) => item === value[0]))
      return Number(value[0]);
    throw this.bad(key, "one number", value);
  }

  text(key: string): string | undefined {
    const value = this.header.metadata.get(`${this.prefix}.${key}`);
    return typeof value === "string" ? value : undefined;
  }

  vocabSize(): number {
    const embedding = this.header.tensors.get("token_embd.weight");
    if (embedding) return embedding.shape[0]!;
    return this.number("vocab_size");
  }

  /** Values of a small float tensor, or null when there is none. */
  values(name: string): number[] | null {
    const entry = this.header.tensors.get(name);
    if (!entry) return null;
    const source = openSource(this.file);
    try {
      return Array.from(toFloat32(readGgufTensor(source, entry)));
    } finally {
      source.close();
    }
  }

  private bad(key: string, expected: string, got: GgufValue | undefined): ModelError {
    const shown = got === undefined ? "nothing" : JSON.stringify(got)?.slice(0, 80);
    return new ModelError(
      "ERR_CONFIG",
      `${this.file}: ${this.prefix}.${key}: expected ${expected}, got ${shown}`,
      {
        details: { file: this.file, key, expected, got: shown },
        remedies: ["Get the file again, or convert from the model's Hugging Face folder."],
      },
    );
  }
}
