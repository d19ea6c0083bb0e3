#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tiny random checkpoints of families, and what Hugging Face Transformers computes with them.

    python make_decoder_fixtures.py OUT_DIR [--only gemma,smollm3,mixtral]

(opt, bloom and falcon are for the test of export_torchscript.py, which exports them.)

OUT_DIR/FAMILY holds config.json, model.safetensors and golden.safetensors: input_ids [2, T]; for each case
plain / add / cap / ordered: CASE.logits [2, T, vocab], CASE.hidden [layer, 2, T, hidden] (each layer's output
after steering); for plain / add / ordered CASE.greedy, input_ids[0, :8] and the tokens that follow. index.json
says at which layers (mid, late) steering is. Eager attention, float32, CPU. Needs torch and transformers.
"""

import argparse
import json
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS, GREEDY = 16, 24
COMMON = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "gemma": {"intermediate_size": 48, "head_dim": 12, "num_key_value_heads": 1, "tie_word_embeddings": True},
    # Every fourth layer without rope, which then has the window.
    "smollm3": {"intermediate_size": 48, "use_sliding_window": True, "sliding_window": 6},
    "mixtral": {"intermediate_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7},
}
# Families that the converter does not write.
EXPORTED = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 4, "n_head": 4},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "alibi": False},
}
MID, LATE = 2, 3


def layers_of(model):
    for path in ("model.layers", "model.decoder.layers", "transformer.h"):
        found = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise SystemExit(f"{type(model).__name__}: no list of layers at a known place")


def unit(vector):
    return vector / vector.norm()


class Steering:
    """h + 2 v, cap of h.u to [-0.5, 0.25], ablation of w, in the order a case says."""

    def __init__(self, generator, width):
        self.vector = torch.randn(width, generator=generator)
        self.cap_direction = unit(torch.randn(width, generator=generator))
        self.ablate_direction = unit(torch.randn(width, generator=generator))

    def add(self, hidden):
        return hidden + 2.0 * self.vector

    def cap(self, hidden):
        along = hidden @ self.cap_direction
        return hidden + (along.clamp(-0.5, 0.25) - along).unsqueeze(-1) * self.cap_direction

    def ablate(self, hidden):
        return hidden - (hidden @ self.ablate_direction).unsqueeze(-1) * self.ablate_direction

    def cases(self):
        return {
            "plain": {},
            "add": {MID: [self.add]},
            "cap": {MID: [self.cap]},
            "ordered": {MID: [self.add, self.cap, self.ablate], LATE: [self.add]},
        }


def run(model, ids, operations):
    """Logits, and the output of every layer after its operations."""
    states, hooks = {}, []

    def hook(layer):
        def act(_module, _inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            for operation in operations.get(layer, []):
                hidden = operation(hidden)
            states[layer] = hidden
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return act

    for layer, module in enumerate(layers_of(model)):
        hooks.append(module.register_forward_hook(hook(layer)))
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        for handle in hooks:
            handle.remove()
    return logits, torch.stack([states[layer] for layer in sorted(states)])


def greedy(model, prompt, operations):
    ids = prompt.unsqueeze(0)
    for _ in range(GREEDY):
        logits, _ = run(model, ids, operations)
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[0]


def make(name, folder):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**COMMON, **{**FAMILIES, **EXPORTED}[name]})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms near one, matrices large enough that attention and experts decide something.
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if parameter.dim() == 1 else 0.15 * noise)
    steering = Steering(generator, config.hidden_size)
    ids = torch.randint(0, config.vocab_size, (2, TOKENS), generator=generator)
    golden = {
        "input_ids": ids,
        "vector": steering.vector,
        "cap_direction": steering.cap_direction,
        "ablate_direction": steering.ablate_direction,
    }
    for case, operations in steering.cases().items():
        golden[f"{case}.logits"], golden[f"{case}.hidden"] = run(model, ids, operations)
        if case != "cap":
            golden[f"{case}.greedy"] = greedy(model, ids[0, :8], operations)
    model.save_pretrained(folder)
    save_file({key: value.contiguous() for key, value in golden.items()}, os.path.join(folder, "golden.safetensors"))
    return {"mid": MID, "late": LATE, "num_layers": config.num_hidden_layers, "model_type": name}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--only", default=",".join(FAMILIES))
    options = parser.parse_args()
    models = {name: make(name, os.path.join(options.out, name)) for name in options.only.split(",")}
    made_with = {"torch": torch.__version__, "transformers": transformers.__version__, "dtype": "float32"}
    with open(os.path.join(options.out, "index.json"), "w", encoding="utf-8") as file:
        json.dump({"made_with": made_with, "models": models}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
