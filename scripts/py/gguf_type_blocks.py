#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Blocks of every GGUF element type and the float32 values the `gguf` package gives them.

Half of each type's blocks are of values the package quantises itself (where it can), the rest are random bits:
every field, scales and infinities included, takes values that no writer would choose.

    python gguf_type_blocks.py OUT.safetensors [--elements 1048576]

Needs numpy, gguf and nothing else. OUT holds TYPE.blocks (uint8) and TYPE.values (float32).
"""

import argparse
import importlib.metadata
import json
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
         "IQ4_NL", "IQ4_XS", "MXFP4"]


def blocks_of(kind, elements, generator):
    block, size = GGML_QUANT_SIZES[kind]
    count = elements // block
    raw = generator.integers(0, 256, (count, size), dtype=np.uint8)
    if block == 1:
        return raw.reshape(-1)
    try:
        values = generator.standard_normal((count // 2, block), dtype=np.float32)
        raw[: count // 2] = quantize(values, kind).reshape(count // 2, size)
    except NotImplementedError:
        pass
    return raw.reshape(-1)


def values_of(kind, blocks):
    if kind == GGMLQuantizationType.F32:
        return blocks.view(np.float32)
    if kind == GGMLQuantizationType.F16:
        return blocks.view(np.float16).astype(np.float32)
    return dequantize(blocks.reshape(1, -1), kind).reshape(-1).astype(np.float32, copy=False)


def write_safetensors(path, tensors, metadata):
    header, at = {"__metadata__": metadata}, 0
    for name, array in tensors.items():
        dtype = "U8" if array.dtype == np.uint8 else "F32"
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--elements", type=int, default=1 << 20)
    options = parser.parse_args()
    generator = np.random.default_rng(6)
    tensors = {}
    with np.errstate(all="ignore"):
        for name in TYPES:
            kind = GGMLQuantizationType[name]
            blocks = blocks_of(kind, options.elements, generator)
            tensors[f"{name}.blocks"] = blocks
            tensors[f"{name}.values"] = values_of(kind, blocks)
    write_safetensors(options.out, tensors, {"gguf": importlib.metadata.version("gguf")})


if __name__ == "__main__":
    main()
