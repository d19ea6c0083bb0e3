# SPDX-License-Identifier: Apache-2.0
"""Hugging Face Transformers as the peer of our benchmarks: one JSON request a line in, one answer a line out.

Greedy decoding by a plain loop over model(...) with its own KV cache (faster than generate()), steering by
forward hooks that add a vector to the layer's output, as steering libraries on Transformers do. With one vector
a request the hook adds a [batch, 1, hidden] tensor: the batch is fixed, but each row has its own.
"""
import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def load(request):
    torch.set_num_threads(request["threads"])
    dtype = getattr(torch, request["dtype"])
    path = request["model"]
    if path.endswith(".gguf"):
        model = AutoModelForCausalLM.from_pretrained(
            os.path.dirname(path), gguf_file=os.path.basename(path), dtype=dtype
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.eval().to(request.get("device", "cpu"))


def add_hooks(model, layers, vectors):
    """vectors: none (0.01 in every element), one for all rows, or one for each row of the batch."""
    if not layers:
        return []
    if vectors is None:
        added = torch.full((model.config.hidden_size,), 0.01, dtype=model.dtype, device=model.device)
    else:
        added = torch.tensor(vectors, dtype=torch.float32).to(model.device, model.dtype)[:, None, :]

    def hook(_module, _inputs, output):
        if isinstance(output, tuple):
            return (output[0] + added,) + tuple(output[1:])
        return output + added

    return [model.model.layers[index].register_forward_hook(hook) for index in layers]


def now(model):
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


@torch.inference_mode()
def run(model, request):
    ids = torch.tensor(request["tokens"], device=model.device)
    handles = add_hooks(model, request["layers"], request.get("vectors"))
    try:
        begin = now(model)
        out = model(ids, use_cache=True, logits_to_keep=1)
        past, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        made = [token]
        middle = now(model)
        steps = request["steps"]
        for _ in range(steps - 1):
            out = model(token, past_key_values=past, use_cache=True)
            past, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            made.append(token)
        end = now(model)
    finally:
        for handle in handles:
            handle.remove()
    answer = {"promptMs": (middle - begin) * 1e3, "generateMs": (end - middle) * 1e3}
    return {**answer, "made": torch.cat(made, dim=1).tolist()}


@torch.inference_mode()
def alternate(model, request):
    """One call of the model a step, hidden states asked for where `hidden` says so and kept to the end.

    chunk 0: greedy steps after the prompts; else the prompts themselves, `chunk` tokens a step.
    """
    ids = torch.tensor(request["tokens"], device=model.device)
    chunk = request["chunk"]
    past, kept = None, []
    if chunk == 0:
        out = model(ids, use_cache=True, logits_to_keep=1)
        past, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
    ends, busy = [now(model)], [time.process_time()]
    for step, hidden in enumerate(request["hidden"]):
        rows = token if chunk == 0 else ids[:, step * chunk : (step + 1) * chunk]
        out = model(rows, past_key_values=past, use_cache=True, logits_to_keep=1, output_hidden_states=hidden)
        kept.append(out.hidden_states)
        past, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        ends.append(now(model))
        busy.append(time.process_time())

    def differences(values):
        return [(after - before) * 1e3 for before, after in zip(values, values[1:])]

    return {"stepMs": differences(ends), "stepCpuMs": differences(busy)}


def main():
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "load":
            model = load(request)
            answer = {"torch": torch.__version__}
        elif request["do"] == "alternate":
            answer = alternate(model, request)
        else:
            answer = run(model, request)
        print(json.dumps(answer), flush=True)


main()
