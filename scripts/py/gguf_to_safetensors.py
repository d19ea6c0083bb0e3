#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a Hugging Face folder (config.json, sharded safetensors, tokenizer) from a GGUF file.

A reference for the tests, independent of the product's own converter: names, row order and tokenizer are undone
here with numpy and the `gguf` package alone (no torch).

    python gguf_to_safetensors.py MODEL.gguf OUT_DIR [--dtype float32|float16] [--shard-bytes 268435456]

Reads the architectures llama (Llama, Mistral, SmolLM 2), qwen2 and qwen3, and byte-level BPE tokenizers.
"""

import argparse
import json
import os
import re
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file

PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
AROUND = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# llama.cpp's converter reorders the rows of q and k for these.
REORDERED = {"llama"}

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(pattern):
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {**BYTE_LEVEL, "use_regex": False},
        ],
    }


DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
SPLITTINGS = {
    "gpt-2": BYTE_LEVEL,
    "default": BYTE_LEVEL,
    "smollm": DIGITS,
    "llama-bpe": split(LLAMA3_WORDS),
    "qwen2": split(LLAMA3_WORDS.replace("{1,3}", "")),
}


class Metadata:
    def __init__(self, reader):
        self.fields = reader.fields
        self.architecture = self.text("general.architecture")

    def get(self, key, otherwise=None):
        field = self.fields.get(key)
        return otherwise if field is None else field.contents()

    def text(self, key):
        value = self.get(key)
        if not isinstance(value, str):
            raise SystemExit(f"{key}: expected a string, got {value!r}")
        return value

    def of(self, key, otherwise=None):
        return self.get(f"{self.architecture}.{key}", otherwise)


def config_of(meta, names, vocab):
    hidden, heads = meta.of("embedding_length"), meta.of("attention.head_count")
    if any(key.startswith(f"{meta.architecture}.rope.scaling") for key in meta.fields) or "rope_freqs.weight" in names:
        raise SystemExit("scaled rope: not written by this script")
    return {
        "architectures": [CLASSES[meta.architecture]],
        "model_type": meta.architecture,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": meta.of("feed_forward_length"),
        "num_hidden_layers": meta.of("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.of("attention.head_count_kv", heads),
        "head_dim": meta.of("attention.key_length", hidden // heads),
        "max_position_embeddings": meta.of("context_length"),
        "rms_norm_eps": meta.of("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.of("rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in names and meta.architecture == "llama",
        "tie_word_embeddings": "output.weight" not in names,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
    }


def hub_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem in AROUND:
        return f"{AROUND[stem]}.{kind}"
    parts = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if parts is None or parts[2] not in PARTS:
        raise SystemExit(f"{name}: a tensor this script does not know")
    return f"model.layers.{parts[1]}.{PARTS[parts[2]]}.{kind}"


def values_of(tensor, dtype):
    kind = GGMLQuantizationType(tensor.tensor_type)
    data = tensor.data
    values = data.astype(np.float32) if kind.name in ("F32", "F16") else dequantize(data, kind)
    shape = [int(size) for size in reversed(tensor.shape)]
    return np.ascontiguousarray(values.reshape(shape).astype(dtype, copy=False))


def halves_again(values, heads):
    """Rows of one head as Hugging Face has them: the first of every pair, then the second."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))


def write_weights(reader, meta, out, dtype, shard_bytes):
    heads = {"attn_q": meta.of("attention.head_count"), "attn_k": meta.of("attention.head_count_kv")}
    heads["attn_k"] = heads["attn_k"] or heads["attn_q"]
    size = np.dtype(dtype).itemsize
    shards, room = [[]], shard_bytes
    for tensor in reader.tensors:
        bytes_ = int(tensor.n_elements) * size
        if shards[-1] and bytes_ > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= bytes_
    weight_map, total = {}, 0
    for index, shard in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        arrays = {}
        for tensor in shard:
            values = values_of(tensor, dtype)
            part = tensor.name.split(".")[-2]
            if meta.architecture in REORDERED and part in heads:
                values = halves_again(values, heads[part])
            arrays[hub_name(tensor.name)] = values
        weight_map.update({name: file for name in arrays})
        total += sum(array.nbytes for array in arrays.values())
        save_file(arrays, os.path.join(out, file), metadata={"format": "pt"})
    write_json(out, "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_tokenizer(meta, out):
    kind, pre = meta.text("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in SPLITTINGS:
        raise SystemExit(f"tokenizer {kind}/{pre}: expected gpt2 with one of {', '.join(SPLITTINGS)}")
    tokens, types = meta.get("tokenizer.ggml.tokens"), meta.get("tokenizer.ggml.token_type")
    special = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": types[i] == 3}
        for i, token in enumerate(tokens)
        if types[i] in (3, 4)
    ]
    write_json(out, "tokenizer.json", {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": SPLITTINGS[pre],
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in meta.get("tokenizer.ggml.merges")],
        },
    })
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name in ("bos", "eos"):
        token = meta.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            config[f"{name}_token"] = tokens[token]
    template = meta.get("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    write_json(out, "tokenizer_config.json", config)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("out", help="folder to write, made if it is not there")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--shard-bytes", type=int, default=1 << 28)
    options = parser.parse_args()
    reader = GGUFReader(options.gguf)
    meta = Metadata(reader)
    if meta.architecture not in CLASSES:
        raise SystemExit(f"architecture {meta.architecture}: expected one of {', '.join(CLASSES)}")
    names = {tensor.name for tensor in reader.tensors}
    vocab = next(int(tensor.shape[1]) for tensor in reader.tensors if tensor.name == "token_embd.weight")
    os.makedirs(options.out, exist_ok=True)
    write_json(options.out, "config.json", config_of(meta, names, vocab))
    write_tokenizer(meta, options.out)
    write_weights(reader, meta, options.out, options.dtype, options.shard_bytes)


if __name__ == "__main__":
    sys.exit(main())
