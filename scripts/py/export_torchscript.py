#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a Hugging Face causal language model as a TorchScript archive that chatspace-steer can load.

For architectures which `chatspace-steer convert` does not write. The archive runs at any length (plain
tracing bakes the mask and the cache of one length in), keeps every submodule callable, so that its layers
can be steered and read, and holds the tokenizer files.

    python export_torchscript.py MODEL_DIR_OR_NAME OUT.pt [--dtype float32] [--with-past] [--check]

How: the model's own forward is traced with eager attention and a four-dimensional additive mask, which is
built inside the trace from tensors alone; a small scripted forward in front of it makes the inputs optional.
With --with-past the keys and values are a list of tensors, 2 a layer, that goes in and comes out; an empty
one starts a sequence.
"""

import argparse
import contextlib
import inspect
import json
import os
import sys
import tempfile
import types

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicLayer
from transformers.utils import cached_file

TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
]
MARKER = "torchscript-export.json"

FORWARD = """
def forward(self, input_ids: Tensor, attention_mask: Optional[Tensor] = None,
            position_ids: Optional[Tensor] = None) -> Tensor:
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if position_ids is None:
        position_ids = torch.cumsum(torch.ones_like(input_ids), -1) - 1
    return self.run(input_ids, attention_mask, position_ids)
"""

FORWARD_WITH_PAST = """
def forward(self, input_ids: Tensor, attention_mask: Optional[Tensor] = None,
            position_ids: Optional[Tensor] = None,
            past: Optional[List[Tensor]] = None) -> Tuple[Tensor, List[Tensor]]:
    if past is None or len(past) == 0:
        empty = torch.empty([input_ids.size(0), {heads}, 0, {width}], dtype={dtype}, device=input_ids.device)
        past = [empty for i in range({count})]
    before = past[0].size(2)
    if attention_mask is None:
        attention_mask = torch.ones([input_ids.size(0), before + input_ids.size(1)], dtype=torch.long,
                                    device=input_ids.device)
    if position_ids is None:
        position_ids = torch.cumsum(torch.ones_like(input_ids), -1) - 1 + before
    return self.run(input_ids, attention_mask, position_ids, past)
"""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, without the empty tensor a DynamicLayer starts from: a trace would keep it."""

    def update(self, key_states, value_states, *args, **kwargs):
        if self.keys is None:
            self.keys, self.values = key_states, value_states
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        else:
            self.keys = torch.cat([self.keys, key_states], dim=-2)
            self.values = torch.cat([self.values, value_states], dim=-2)
        return self.keys, self.values


def additive_mask(attention_mask, before, dtype, window):
    """[batch, 1, new, all] of 0 and the lowest number, from tensors only, so that no length or device is baked in."""
    places = torch.cumsum(torch.ones_like(attention_mask), -1)
    keys = places.unsqueeze(1)
    queries = places[:, before:].unsqueeze(2)
    seen = (keys <= queries) & (attention_mask.unsqueeze(1) != 0)
    if window is not None:
        seen = seen & (queries - keys < window)
    return ((~seen).to(dtype) * torch.finfo(dtype).min).unsqueeze(1)


def masks_for(config, attention_mask, before, dtype):
    """One mask, or one for each kind of layer where a model mixes them."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    kinds = sorted(set(getattr(config, "layer_types", None) or []))
    unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise SystemExit(f"layers of the kind {', '.join(unknown)} cannot be exported: their state is no list of keys and values")
    if len(kinds) > 1:
        return {
            kind: additive_mask(attention_mask, before, dtype, window if kind == "sliding_attention" else None)
            for kind in kinds
        }
    return additive_mask(attention_mask, before, dtype, None if kinds == ["full_attention"] else window)


def makes_alibi(model):
    """BLOOM's kind: the bias by distance is made from the two-dimensional mask, so that one has to go in."""
    module = sys.modules[type(model).__module__]
    return hasattr(module, "build_alibi_tensor") and getattr(model.config, "alibi", True)


@contextlib.contextmanager
def mask_stands_in(model, mask):
    """Lets the model's own forward use this mask where it would make one with the traced length in it."""
    module = sys.modules[type(model).__module__]
    kept = module.create_causal_mask
    module.create_causal_mask = lambda *_, **__: mask
    try:
        yield
    finally:
        module.create_causal_mask = kept


class NoContext:
    """What a forward of a torch.autograd.Function keeps for a backward that never comes."""

    def save_for_backward(self, *tensors):
        pass


@contextlib.contextmanager
def functions_inlined(model):
    """A trace cannot save calls of Python's autograd functions; their forwards alone are tensors all through."""
    module = sys.modules[type(model).__module__]
    kinds = [kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, torch.autograd.Function)]
    for kind in kinds:
        kind.apply = staticmethod(lambda *inputs, kind=kind: kind.forward(NoContext(), *inputs))
    try:
        yield
    finally:
        for kind in kinds:
            del kind.apply


def forward_of(model, mask, attention_mask, position_ids, **inputs):
    """The model's forward with this mask, and with position ids where it takes them."""
    kind = type(model)
    if "position_ids" in inspect.signature(kind.forward).parameters:
        inputs["position_ids"] = position_ids
    if not makes_alibi(model):
        return kind.forward(model, attention_mask=mask, return_dict=True, **inputs)
    with mask_stands_in(model, mask):
        return kind.forward(model, attention_mask=attention_mask, return_dict=True, **inputs)


def trace(model, dtype, with_past):
    """The model as a script module with the forward above; its submodules keep their names."""
    config = model.config.get_text_config()
    ids = torch.arange(5).unsqueeze(0) % config.vocab_size

    def run(self, input_ids, attention_mask, position_ids):
        mask = masks_for(config, attention_mask, 0, dtype)
        return forward_of(self, mask, attention_mask, position_ids, input_ids=input_ids, use_cache=False).logits

    def run_with_past(self, input_ids, attention_mask, position_ids, past):
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        mask = masks_for(config, attention_mask, past[0].size(2), dtype)
        inputs = {"input_ids": input_ids, "past_key_values": cache, "use_cache": True}
        logits = forward_of(self, mask, attention_mask, position_ids, **inputs).logits
        return logits, [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]

    if not with_past:
        model.run = types.MethodType(run, model)
        inputs = (ids, torch.ones_like(ids), torch.arange(5).unsqueeze(0))
        source = FORWARD
    else:
        shapes = key_value_shapes(model, ids)
        if any(shape != shapes[0] for shape in shapes):
            raise SystemExit(f"--with-past: layers keep keys and values of different shapes ({shapes}); export without")
        _, heads, _, width = shapes[0]
        past = [torch.zeros(1, heads, 3, width, dtype=dtype) for _ in shapes]
        model.run = types.MethodType(run_with_past, model)
        inputs = (ids, torch.ones(1, 8, dtype=torch.long), torch.arange(3, 8).unsqueeze(0), past)
        source = FORWARD_WITH_PAST.format(heads=heads, width=width, count=len(shapes), dtype=dtype)
    with torch.no_grad(), functions_inlined(model):
        traced = torch.jit.trace_module(model, {"run": inputs}, check_trace=False, strict=False)
    traced.define(source)
    return traced


def key_value_shapes(model, ids):
    """Shapes of the keys and values of each layer, as the model itself makes them."""
    cache = Cache(layer_class_to_replicate=GrowingLayer)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    return [tuple(tensor.shape) for layer in cache.layers for tensor in (layer.keys, layer.values)]


def extra_files(source):
    files = {}
    for name in TOKENIZER_FILES:
        path = cached_file(
            source,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            with open(path, "rb") as file:
                files[name] = file.read()
    return files


def marker(model, dtype, with_past):
    config = model.config.get_text_config()
    return json.dumps(
        {
            "format": 1,
            "model_class": type(model).__name__,
            "model_type": model.config.model_type,
            "dtype": str(dtype).removeprefix("torch."),
            "past": with_past,
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "context_length": getattr(config, "max_position_embeddings", None),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        indent=1,
    ).encode()


def without_debug_records(source, target):
    """Copies an archive but for its debug records, which hold the paths of the machine that wrote it."""
    reader = torch._C.PyTorchFileReader(source)
    writer = torch._C.PyTorchFileWriter(target)
    for name in reader.get_all_records():
        if name.endswith(".debug_pkl") or name in ("version", "byteorder", ".data/serialization_id"):
            continue
        record = reader.get_record(name)
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def save_whole(module, path, files):
    """Writes beside the target and renames, so that a broken export leaves no half archive."""
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as work:
        saved, stripped = os.path.join(work, "saved.pt"), os.path.join(work, "archive.pt")
        torch.jit.save(module, saved, _extra_files=files)
        without_debug_records(saved, stripped)
        os.replace(stripped, path)


def check(path, model, dtype, with_past):
    """Runs the archive at two lengths the trace never saw, and in two parts with a past, against the model."""
    archive = torch.jit.load(path)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}[dtype]
    vocab, worst = model.config.get_text_config().vocab_size, 0.0
    generator = torch.Generator().manual_seed(0)
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 23
    for length in (2, min(23, places)):
        ids = torch.randint(0, vocab, (1, length), generator=generator)
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits.float()
            out = archive(ids)
            worst = max(worst, ((out[0] if with_past else out).float() - expected).abs().max().item())
            if with_past:
                first, past = archive(ids[:, : length // 2])
                second, _ = archive(ids[:, length // 2 :], past=past)
                parts = torch.cat([first, second], dim=1).float()
                worst = max(worst, (parts - expected).abs().max().item())
    called = [name for name, _ in archive.named_modules() if name.endswith(".0")]
    print(f"check: logits differ by at most {worst:.3g} (allowed {tolerance}); numbered modules: {', '.join(called)}")
    if not worst <= tolerance or not called:
        raise SystemExit("check: the archive does not do what the model does")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a Hugging Face model, or its name on the hub")
    parser.add_argument("out", help="archive to write")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--with-past", action="store_true", help="take and return keys and values: a step costs one token")
    parser.add_argument("--check", action="store_true", help="load the archive again and compare it with the model")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="eager").eval()
    model.requires_grad_(False)
    traced = trace(model, dtype, options.with_past)
    files = extra_files(options.model)
    files[MARKER] = marker(model, dtype, options.with_past)
    save_whole(traced, options.out, files)
    print(f"wrote {options.out} ({os.path.getsize(options.out)} bytes; {', '.join(files)})")
    if options.check:
        del model.run
        check(options.out, model, dtype, options.with_past)


if __name__ == "__main__":
    sys.exit(main())
