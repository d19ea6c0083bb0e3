# SPDX-License-Identifier: Apache-2.0
"""The peer of bench/embed.mjs: sentence-transformers over the same rows, threads and model.

Reads JSON lines with a "text" from --rows, writes the vectors as float32 and one JSON line of figures.
"""

import argparse
import json
import time

import numpy as np
import torch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--vectors", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import sentence_transformers

    texts = [json.loads(line)["text"] for line in open(args.rows, encoding="utf-8")]
    loaded = time.perf_counter()
    model = sentence_transformers.SentenceTransformer(args.model, device="cpu")
    loaded = time.perf_counter() - loaded
    model.encode(texts[:64], batch_size=args.batch_size)
    started = time.perf_counter()
    vectors = model.encode(texts, batch_size=args.batch_size, convert_to_numpy=True, show_progress_bar=False)
    seconds = time.perf_counter() - started
    vectors.astype("<f4").tofile(args.vectors)
    print(json.dumps({
        "seconds": seconds,
        "load_seconds": loaded,
        "rows": len(texts),
        "dim": int(vectors.shape[1]),
        "versions": {"sentence_transformers": sentence_transformers.__version__, "torch": torch.__version__},
    }))


if __name__ == "__main__":
    main()
