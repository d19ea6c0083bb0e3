# SPDX-License-Identifier: Apache-2.0
"""llama.cpp with a control vector as the peer of our benchmarks: one JSON request a line in, one answer a line out.

The library is called through llama-cpp-python's low-level bindings, which are llama.h one to one: N sequences
decode in one llama_batch a step, greedily, and llama_set_adapter_cvec gives the *context* its control vector, as
`--control-vector` does. Every sequence of the context gets it: llama.cpp cannot give rows different ones, and it
has no vector for layer 0.

Making the environment (a compiler is needed; the wheel is built for this machine, as ours is):

    python3 -m venv FOLDER
    CMAKE_ARGS="-DGGML_NATIVE=ON" FOLDER/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    export CHATSPACE_BENCH_LLAMA_PYTHON=FOLDER/bin/python
"""
import ctypes
import json
import sys
import time

import llama_cpp
import numpy as np


class Runner:
    def __init__(self):
        llama_cpp.llama_backend_init()
        # Its progress on stderr is of no use here; it must stay alive, hence the attribute.
        self.silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, None)
        self.model = None
        self.context = None
        self.batch = None

    def load(self, request):
        self.close_context()
        if self.model is not None:
            llama_cpp.llama_model_free(self.model)
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(request["model"].encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {request['model']}")
        self.threads = request["threads"]
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.width = llama_cpp.llama_model_n_embd(self.model)
        self.layers = llama_cpp.llama_model_n_layer(self.model)
        return {
            "version": llama_cpp.__version__,
            "system": llama_cpp.llama_print_system_info().decode().strip(),
        }

    def open(self, request):
        """A context for `sequences` sequences of at most `length` tokens."""
        self.close_context()
        sequences, length = request["sequences"], request["length"]
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * (-(-length // 256) * 256)
        params.n_batch = max(512, sequences * request["prompt"])
        params.n_seq_max = sequences
        params.n_threads = self.threads
        params.n_threads_batch = self.threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp could not make the context")
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        return {"context": params.n_ctx}

    def close_context(self):
        if self.context is not None:
            llama_cpp.llama_batch_free(self.batch)
            llama_cpp.llama_free(self.context)
        self.context = None

    def steer(self, layers, vector):
        """The same vector after each of a contiguous range of layers."""
        if not layers:
            status = llama_cpp.llama_set_adapter_cvec(self.context, None, 0, self.width, -1, -1)
        else:
            values = np.tile(np.asarray(vector, dtype=np.float32), self.layers - 1)
            pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            first = max(1, layers[0])
            status = llama_cpp.llama_set_adapter_cvec(
                self.context, pointer, values.size, self.width, first, layers[-1]
            )
        if status != 0:
            raise RuntimeError(f"llama_set_adapter_cvec: {status}")

    def decode(self, rows):
        """rows: (token, position, sequence, wants logits). Greedy token of each row that wants logits."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        wanted = sum(1 for row in rows if row[3])
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), shape=(wanted, self.vocab))
        return logits.argmax(axis=1).tolist()

    def run(self, request):
        tokens, steps = request["tokens"], request["steps"]
        self.steer(request["layers"], request.get("vector"))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        length = len(tokens[0])
        begin = time.perf_counter()
        last = self.decode(
            [
                (token, position, sequence, position == length - 1)
                for sequence, ids in enumerate(tokens)
                for position, token in enumerate(ids)
            ]
        )
        middle = time.perf_counter()
        made = [[token] for token in last]
        for step in range(steps):
            last = self.decode([(token, length + step, i, True) for i, token in enumerate(last)])
            for ids, token in zip(made, last):
                ids.append(token)
        end = time.perf_counter()
        return {"promptMs": (middle - begin) * 1e3, "generateMs": (end - middle) * 1e3, "made": made}


def main():
    runner = Runner()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(runner, {"load": "load", "open": "open", "run": "run"}[request["do"]])(request)
        print(json.dumps(answer), flush=True)
    runner.close_context()


main()
