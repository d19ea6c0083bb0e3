#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny checkpoint of tests/golden/memory and what PyTorch makes of it.

checkpoint/ has the layout of a compressed-prompt checkpoint (llm/ embedder/ projectors/ chatspace.json) with
random weights: a Llama of width 32, a Qwen3 embedder of width 16, chunks of 4 tokens. expected.json lists the
cases with their spans, token ids and greedy tokens; NAME.npy is the embedding matrix of a case, computed here
in float64 and the long way round: every chunk padded on the left in one batch, torch's own RMSNorm, Linear, GELU.

    python make_memory_fixture.py OUT_DIR
    python make_memory_fixture.py --check FILE.pt [...]   torch.load(weights_only=True) of files of ours
"""

import argparse
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

START, END, MEMORY = "<|memory_start|>", "<|memory_end|>", "<|memory|>"
CHUNK, EPS, GREEDY = 4, 1e-6, 12
LLM_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", START, END, MEMORY]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = """The river rose in the night and by the morning the bridge was gone. def area(width, height):
    return width * height
One of the special numbers for the lighthouse is: 481516. Every house on the hill kept its lamp lit."""

CASES = {
    "two-spans": f"Read: {START}{TEXT}{END} and {START}the lamp{END}\nAnswer:",
    "same-twice": f"{START}the house{END}{START}the house{END} twice, {START}house{END} once",
    "whole-chunks": f"x{START}abcdefgh{END}",
    "empty": f"nothing {START}{END} here {START}the hill{END}",
    "unicode": f"naïve {START}— Ωμέγα 🙂 “quoted”{END} ✓",
    "no-spans": "The bridge was gone.",
    "chat": [
        {"role": "system", "content": "Answer in a word."},
        {"role": "user", "content": f"{START}{TEXT}{END}What is the number?"},
    ],
}


def train_tokenizer(vocab_size, specials, **config):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **config)


def random_weights(module, generator, std):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 and "norm" in name else std * noise)


class Checkpoint:
    def __init__(self):
        generator = torch.Generator().manual_seed(20)
        self.tokenizer = train_tokenizer(
            300, LLM_SPECIALS, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
        )
        self.embed_tokenizer = train_tokenizer(290, ["<|endoftext|>"], pad_token="<|endoftext|>")
        self.llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
                bos_token_id=None, eos_token_id=2,
            )
        ).eval()
        self.embedder = Qwen3Model(
            Qwen3Config(
                vocab_size=290, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, head_dim=8, max_position_embeddings=64, tie_word_embeddings=True,
            )
        ).eval()
        self.norm = nn.RMSNorm(16, eps=EPS)
        self.projection = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))
        for module in (self.llm, self.embedder, self.projection):
            random_weights(module, generator, 0.3)
        with torch.no_grad():
            self.norm.weight.copy_(1 + 0.2 * torch.randn(16, generator=generator))

    def save(self, folder):
        for name, model, tokenizer in (
            ("llm", self.llm, self.tokenizer),
            ("embedder", self.embedder, self.embed_tokenizer),
        ):
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
        (folder / "projectors").mkdir(exist_ok=True)
        save_file(self.norm.state_dict(), folder / "projectors/code_norm_pre.safetensors")
        save_file(self.projection.state_dict(), folder / "projectors/code_projection.safetensors")
        settings = {"compressedPrompt": {"version": 1, "chunkSize": CHUNK, "pooling": "marker"}}
        (folder / "chatspace.json").write_text(json.dumps(settings, indent=2) + "\n")

    def in_float64(self):
        """The reference is computed in float64, so that a deviation from it is the other side's."""
        for module in (self.llm, self.embedder, self.norm, self.projection):
            module.double()

    @torch.no_grad()
    def compress_chunks(self, ids):
        """[chunks, 32] of the token ids of one span."""
        pad = self.embed_tokenizer.pad_token_id
        chunks = [ids[i : i + CHUNK] + [pad] for i in range(0, len(ids), CHUNK)]
        batch = torch.full((len(chunks), CHUNK + 1), pad)
        mask = torch.zeros_like(batch)
        for row, chunk in enumerate(chunks):
            batch[row, CHUNK + 1 - len(chunk) :] = torch.tensor(chunk)
            mask[row, CHUNK + 1 - len(chunk) :] = 1
        hidden = self.embedder(input_ids=batch, attention_mask=mask).last_hidden_state[:, -1]
        return self.projection(self.norm(hidden))

    @torch.no_grad()
    def run(self, prompt):
        if isinstance(prompt, list):
            prompt = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        spans = []

        def expand(match):
            ids = self.embed_tokenizer.encode(match.group(1), add_special_tokens=False)
            spans.append(ids)
            return START + MEMORY * max(1, math.ceil(len(ids) / CHUNK)) + END

        expanded = re.sub(re.escape(START) + "(.*?)" + re.escape(END), expand, prompt, flags=re.DOTALL)
        ids = self.tokenizer.encode(expanded)
        rows = self.llm.get_input_embeddings()(torch.tensor(ids)).clone()
        starts = [i for i, id in enumerate(ids) if id == self.tokenizer.convert_tokens_to_ids(START)]
        for start, span in zip(starts, spans, strict=True):
            if span:
                rows[start + 1 : start + 1 + math.ceil(len(span) / CHUNK)] = self.compress_chunks(span)
        out = self.llm.generate(
            inputs_embeds=rows[None], attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
            min_new_tokens=GREEDY, max_new_tokens=GREEDY, output_logits=True, return_dict_in_generate=True,
        )
        # A near tie would make the greedy tokens a matter of rounding.
        gaps = [float(torch.diff(logits[0].topk(2).values)) for logits in out.logits]
        assert max(gaps) < -1e-3, gaps
        return rows.numpy(), {
            "tokens": ids,
            "spanTokens": [len(span) for span in spans],
            "greedy": out.sequences[0].tolist(),
        }


def check(path):
    """What Python reads from a file of ours, without running anything in it."""
    tensor = torch.load(io.BytesIO(Path(path).read_bytes()), weights_only=True, map_location="cpu")
    assert isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and not tensor.is_sparse
    print(f"{path}: {tensor.dtype} {list(tensor.shape)} {tensor.flatten()[:8].tolist()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--check", nargs="+", default=[])
    args = parser.parse_args()
    for path in args.check:
        check(path)
    if args.out is None:
        return 0 if args.check else parser.error("expected OUT_DIR or --check")
    torch.manual_seed(20)
    checkpoint = Checkpoint()
    (args.out / "checkpoint").mkdir(parents=True, exist_ok=True)
    checkpoint.save(args.out / "checkpoint")
    checkpoint.in_float64()
    cases = []
    for name, prompt in CASES.items():
        rows, facts = checkpoint.run(prompt)
        np.save(args.out / f"{name}.npy", rows.astype(np.float32))
        key = "messages" if isinstance(prompt, list) else "text"
        cases.append({"name": name, key: prompt, **facts})
    (args.out / "expected.json").write_text(json.dumps({"cases": cases}, ensure_ascii=False, indent=1) + "\n")
    torch.save(torch.arange(6, dtype=torch.float32).reshape(2, 3) / 8, args.out / "from-torch.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
