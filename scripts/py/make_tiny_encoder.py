# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny sentence encoder that tests embed with: real files of every kind, 32 dimensions.

    pip install onnx tokenizers numpy
    python scripts/py/make_tiny_encoder.py --output tests/embed/fixtures/tiny-encoder

Token vectors are tanh(E[id] W); E and W are drawn from seed 7. It understands nothing; it runs the
same paths as a trained encoder at a thousandth of the cost.
"""

import argparse
import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

DIM = 32
WORDS = (
    "the of and a to in is was he for it with as his on be at by i this had not are but from or have an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its "
    "about into than them can only other new some could time these two may then do first any my now such like our "
    "over man me even most made after also did many before must through back years where much your way well down "
    "should because each just those people how too little state good very make world still own see men work long"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    out = parser.parse_args().output
    (out / "1_Pooling").mkdir(parents=True, exist_ok=True)

    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + characters + ["##" + c for c in characters]
    pieces += [w for w in WORDS if w not in pieces]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(out / "tokenizer.json"))

    rng = np.random.default_rng(7)
    table = rng.standard_normal((len(vocab), DIM)).astype(np.float32)
    weight = (rng.standard_normal((DIM, DIM)) / np.sqrt(DIM)).astype(np.float32)
    ints = lambda name: helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weight"], ["mixed"]),
            helper.make_node("Tanh", ["mixed"], ["vectors"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
            helper.make_node("Mul", ["vectors", "wide"], ["last_hidden_state"]),
        ],
        "tiny-encoder",
        [ints("input_ids"), ints("attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "length", DIM])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(out / "model.onnx"))

    write = lambda name, value: (out / name).write_text(json.dumps(value, indent=2) + "\n")
    write("config.json", {"model_type": "tiny", "hidden_size": DIM, "pad_token_id": 0, "max_position_embeddings": 256})
    write("tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 256, "do_lower_case": True})
    write("sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    prefix = "sentence_transformers.models."
    write(
        "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": prefix + kind}
            for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
        ],
    )
    write("1_Pooling/config.json", {"word_embedding_dimension": DIM, "pooling_mode_mean_tokens": True})


if __name__ == "__main__":
    main()
