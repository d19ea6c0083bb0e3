#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the small stranger's archives of tests/golden/foreign and what they must give.

Each model is a few kilobytes and returns its state in another way; NAME.json holds logits, hidden states and
greedy tokens of the same module run by PyTorch with steering written out in Python. llama/ is a small Hugging
Face Llama with random weights, exported twice by export_torchscript.py; sort*.pt is a trained model.

    python make_foreign_fixtures.py OUT_DIR [--sort FOLDER_OF_gpt2-nano-sort]
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from export_torchscript import save_whole  # noqa: E402

WIDTH, VOCAB, LAYERS, TOKENS = 16, 29, 3, 12


class Mix(nn.Module):
    """Causal and of any length: each row gets the mean of the rows up to it."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.cumsum(torch.ones_like(x), 1)
        return self.proj(torch.cumsum(x, 1) / count)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.nn.functional.silu(self.up(x)))


class TensorLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attn = Mix()
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(self.norm(x))


class TensorModel(nn.Module):
    """Tokens in, logits out; the layers return their state."""

    form = "tensor"

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList([TensorLayer() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class TupleLayer(TensorLayer):
    def forward(self, x: Tensor, bias: Tensor) -> Tuple[Tensor, Tensor]:
        mixed = self.attn(self.norm(x) + bias)
        x = x + mixed
        return x + self.mlp(self.norm(x)), mixed


class TupleModel(nn.Module):
    """Mask and positions in, a tuple out; the layers return (state, what the mixing gave)."""

    form = "first"

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Embedding(64, WIDTH)
        self.layers = nn.ModuleList([TupleLayer() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tuple[Tensor, List[Tensor]]:
        x = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        bias = self.places(position_ids)
        seen: List[Tensor] = []
        for layer in self.layers:
            x, mixed = layer(x, bias)
            seen.append(mixed)
        return self.head(x), seen


class SecondLayer(TensorLayer):
    def forward(self, kept: Tensor, x: Tensor) -> Tuple[Tensor, Tensor]:
        x = x + self.attn(self.norm(x)) + 0.1 * kept
        return kept, x + self.mlp(self.norm(x))


class SecondModel(nn.Module):
    """The state is the second element, beside the embedding, of the same shape, that is only handed on."""

    form = "second"

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([SecondLayer() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, idx: Tensor) -> Dict[str, Tensor]:
        x = self.embed(idx)
        kept = x
        for layer in self.layers:
            kept, x = layer(kept, x)
        return {"hidden": x, "logits": self.head(x)}


class FusedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor, residual: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        if residual is not None:
            x = x + residual
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
        return (x.float() * scale).to(x.dtype) * self.weight, x


class PairLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = FusedNorm()
        self.self_attn = Mix()
        self.post_attention_layernorm = FusedNorm()
        self.mlp = Mlp()

    def forward(self, hidden: Tensor, residual: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual


class PairModel(nn.Module):
    """Fused norms: layers return (delta, residual), whose sum is the state."""

    form = "pair"

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([PairLayer() for _ in range(LAYERS)])
        self.norm = FusedNorm()
        self.lm_head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed_tokens(input_ids)
        residual: Optional[Tensor] = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        hidden, residual = self.norm(hidden, residual)
        return self.lm_head(hidden)


class TwoStreamLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = Mix()
        self.b = Mlp()

    def forward(self, left: Tensor, right: Tensor) -> Tuple[Tensor, Tensor]:
        left = left + torch.tanh(self.a(right))
        return left, right + torch.tanh(self.b(left))


class TwoStreamModel(nn.Module):
    """Looks like delta and residual, but is a reversible pair of streams: must be refused."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([TwoStreamLayer() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        left = self.embed(tokens)
        right = 0.5 * left
        for layer in self.layers:
            left, right = layer(left, right)
        return self.head(left * 2.0 + right)


class PastLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        # A list within a layer that is longer than the list of layers.
        self.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS + 2)])

    def forward(self, x: Tensor, places: Tensor, total: Tensor) -> Tuple[Tensor, Tensor]:
        sums = torch.cumsum(self.norm(x), 1) + total
        x = x + self.proj(sums / places.unsqueeze(-1))
        for expert in self.experts:
            x = x + 0.1 * torch.tanh(expert(x))
        return x, sums[:, -1:]


class PastModel(nn.Module):
    """A past that is a list of tensors, and a dictionary's worth of flags around it."""

    form = "first"

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([PastLayer() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Optional[List[Tensor]] = None,
        cache_position: Optional[Tensor] = None,
        use_cache: bool = False,
    ) -> Tuple[Tensor, Optional[List[Tensor]]]:
        x = self.embed(input_ids)
        places = torch.cumsum(torch.ones([x.size(0), x.size(1)], dtype=x.dtype, device=x.device), 1)
        if past_key_values is not None:
            places = places + past_key_values[-1]
        sums: List[Tensor] = []
        for i, layer in enumerate(self.layers):
            total = torch.zeros_like(x[:, :1])
            if past_key_values is not None:
                total = past_key_values[i]
            x, last = layer(x, places, total)
            sums.append(last)
        sums.append(places[:, -1:])
        out: Optional[List[Tensor]] = None
        if use_cache:
            out = sums
        return self.head(x), out


class FixedLength(nn.Module):
    """What plain tracing makes of a mask: it holds the traced length."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList([TensorLayer() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x + x.sum(1, keepdim=True))


def call(model, ids):
    names = model.forward.__code__.co_varnames[1 : model.forward.__code__.co_argcount]
    given = {}
    for name in names:
        if "mask" in name:
            given[name] = torch.ones_like(ids)
        elif name == "position_ids":
            given[name] = torch.arange(ids.size(1)).unsqueeze(0)
    out = model(ids, **given)
    if isinstance(out, dict):
        return out["logits"]
    return out[0] if isinstance(out, tuple) else out


class Steered:
    """Forward hooks that steer and record h, whatever the layers return."""

    def __init__(self, layers, form, op=None, at=1):
        self.layers, self.form, self.op, self.at = layers, form, op, at

    def hook(self, index):
        def act(module, inputs, out):
            if self.form == "pair":
                h = out[0].float() + out[1].float()
            elif self.form == "second":
                h = out[1].float()
            else:
                h = (out[0] if isinstance(out, tuple) else out).float()
            if self.op is not None and index == self.at:
                h = self.op(h)
            self.seen[index] = h
            if self.op is None or index != self.at:
                return None
            if self.form == "pair":
                return (h - out[1].float()).to(out[0].dtype), out[1]
            if self.form == "second":
                return out[0], h.to(out[1].dtype)
            return (h.to(out[0].dtype), *out[1:]) if isinstance(out, tuple) else h.to(out.dtype)

        return act

    def __enter__(self):
        self.seen = {}
        self.handles = [layer.register_forward_hook(self.hook(i)) for i, layer in enumerate(self.layers)]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def operations(vector):
    unit = vector / vector.norm()
    return {
        "add": lambda h: h + 2.0 * vector,
        "cap": lambda h: h + ((h @ unit).clamp(-0.2, 0.3) - h @ unit).unsqueeze(-1) * unit,
        "ablate": lambda h: h - (h @ unit).unsqueeze(-1) * unit,
    }


def flat(tensor):
    return [float(f"{value:.7g}") for value in tensor.flatten().tolist()]


def golden(model, layers, form, vocab, width, run):
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, vocab, (1, TOKENS), generator=generator)
    vector = torch.randn(width, generator=generator) / width**0.5
    out = {"ids": ids[0].tolist(), "vector": flat(vector), "layer": 1, "width": width, "vocab": vocab, "cases": {}}
    for name, op in {"plain": None, **operations(vector)}.items():
        with torch.no_grad(), Steered(layers, form, op) as steered:
            logits = run(ids).float()
            hidden = torch.cat([steered.seen[i] for i in range(len(layers))])
            tokens, margin = ids[:, :4], float("inf")
            for _ in range(10):
                last = run(tokens)[0, -1].float()
                best = last.topk(2).values
                margin = min(margin, (best[0] - best[1]).item())
                tokens = torch.cat([tokens, last.argmax().view(1, 1)], 1)
        case = {"logits": flat(logits), "greedy": tokens[0, 4:].tolist(), "margin": margin}
        if name in ("plain", "add"):
            case["hidden"] = flat(hidden)
        out["cases"][name] = case
    return out


def write(folder, name, module, reference=None):
    save_whole(module, os.path.join(folder, f"{name}.pt"), {})
    if reference is not None:
        with open(os.path.join(folder, f"{name}.json"), "w") as file:
            json.dump(reference, file, separators=(",", ":"))
            file.write("\n")


def small_models(folder):
    models = {
        "tensor": TensorModel,
        "tuple": TupleModel,
        "second": SecondModel,
        "pair": PairModel,
        "past": PastModel,
    }
    for seed, (name, kind) in enumerate(models.items()):
        torch.manual_seed(seed)
        model = kind().eval()
        layers = model.blocks if hasattr(model, "blocks") else model.layers
        reference = golden(model, layers, model.form, VOCAB, WIDTH, lambda ids: call(model, ids))
        write(folder, name, torch.jit.script(model), reference)
        if name == "pair":
            half = model.bfloat16()
            reference = golden(half, layers, "pair", VOCAB, WIDTH, lambda ids: call(half, ids))
            write(folder, "pair-bf16", torch.jit.script(half), reference)
    torch.manual_seed(9)
    write(folder, "two-streams", torch.jit.script(TwoStreamModel().eval()))
    example = torch.arange(5).unsqueeze(0)
    write(folder, "not-causal", torch.jit.trace(FixedLength().eval(), example))
    model = TensorModel().eval()
    write(folder, "frozen", torch.jit.freeze(torch.jit.script(model)))
    write(folder, "inlined", inlined(model, example))
    torch.save(model.state_dict(), os.path.join(folder, "torch-save.pt"))


def inlined(model, example):
    """Submodules are there, with their weights, and forward does not call them."""

    class Inlined(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks, self.head = model.embed, model.blocks, model.head

        def forward(self, tokens: Tensor) -> Tensor:
            return torch.nn.functional.linear(torch.nn.functional.embedding(tokens, self.embed.weight), self.head.weight)

    return torch.jit.trace(Inlined().eval(), example)


def llama(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    source = os.path.join(folder, "llama")
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(source)
    reference = golden(model, model.model.layers, "tensor", 97, 32, lambda ids: model(ids, use_cache=False).logits)
    with open(os.path.join(folder, "llama.json"), "w") as file:
        json.dump(reference, file, separators=(",", ":"))
        file.write("\n")
    export(source, os.path.join(folder, "llama.pt"))
    export(source, os.path.join(folder, "llama-past.pt"), "--with-past")


def export(*arguments):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "export_torchscript.py")
    subprocess.run([sys.executable, script, *arguments, "--check"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--sort", help="Hugging Face folder of gpt2-nano-sort")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    small_models(options.out)
    llama(options.out)
    if options.sort:
        export(options.sort, os.path.join(options.out, "sort-bf16.pt"), "--dtype", "bfloat16")
        export(options.sort, os.path.join(options.out, "sort-bf16-past.pt"), "--dtype", "bfloat16", "--with-past")


if __name__ == "__main__":
    main()
