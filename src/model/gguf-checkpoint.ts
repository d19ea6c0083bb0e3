// SPDX-License-Identifier: Apache-2.0
// A GGUF file as a checkpoint: its metadata as a Hugging Face config, its tensors under Hugging Face
// names. What llama.cpp changes in the weights (row order for rope, GPT-2's transposes, Gemma's norms)
// is noted per weight, so that the families need not know where a checkpoint came from.

import { ModelError } from "../errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { CheckpointWeight } from "./families/builder.ts";
import { ConfigReader } from "./families/config-reader.ts";
import { GGUF_ARCHITECTURES, type GgufArchitecture, ggufArchitecture } from "./gguf-architectures.ts";
import { type GgufModel, type GgufPartEntry, openGgufParts } from "./gguf-parts.ts";
import { GgufReader } from "./gguf-reader.ts";

/** Reads a GGUF file, or all parts of a split one. Throws ERR_GGUF, ERR_CHECKPOINT, ERR_CONFIG, ERR_GGUF_ARCHITECTURE. */
export function openGguf(file: string): Checkpoint & { header: GgufModel } {
  const header = openGgufParts(file);
  const name = String(header.metadata.get("general.architecture"));
  const architecture = ggufArchitecture(name, header.metadata.get(`${name}.expert_count`));
  if (!architecture) {
    const known = Object.keys(GGUF_ARCHITECTURES);
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
    for (const [expert, weight] of expertWeights(architecture, entry)) weights.set(expert, weight);
    const hubName = huggingFaceName(architecture.names, entry.name);
    if (!hubName) continue;
    const isQuery = /\.attn_q\.(weight|bias)$/.test(entry.name);
    const isKey = /\.attn_k\.(weight|bias)$/.test(entry.name);
    weights.set(hubName, {
      file: entry.file,
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
  return { format: "gguf", config: new ConfigReader(file, config), weights, files: header.files, header };
}

// The matrices of all experts lie in one tensor, one after the other.
function* expertWeights(
  architecture: GgufArchitecture,
  { name, file, offset, bytes, type, shape }: GgufPartEntry,
): Generator<[string, CheckpointWeight]> {
  const pattern = architecture.experts && huggingFaceName(architecture.experts, name);
  const [experts = 0, ...matrix] = shape;
  if (!pattern || matrix.length !== 2) return;
  const each = bytes / experts;
  for (let index = 0; index < experts; index++)
    yield [
      pattern.replace("{e}", String(index)),
      { file, offset: offset + index * each, bytes: each, type, shape: matrix },
    ];
}

function huggingFaceName(names: Readonly<Record<string, string>>, name: string): string | null {
  const parts = /^(.*)\.(weight|bias)$/.exec(name);
  if (!parts) return null;
  // blk.LAYER.PART, or blk.LAYER.PART.EXPERT in files with a tensor for each expert.
  const [, layer, part, expert] = /^blk\.(\d+)\.(.*?)(?:\.(\d+))?$/.exec(parts[1]!) ?? [];
  const pattern = layer === undefined ? parts[1]! : `blk.{i}.${part}${expert === undefined ? "" : ".{e}"}`;
  const hub = Object.hasOwn(names, pattern) ? names[pattern]! : null;
  if (hub === null) return null;
  const numbered = hub.replace("{i}", layer ?? "");
  return `${expert === undefined ? numbered : numbered.replace("{e}", expert)}.${parts[2]}`;
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
