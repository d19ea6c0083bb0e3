// SPDX-License-Identifier: Apache-2.0
// The activations of the feed-forward blocks, as Hugging Face defines them.
#pragma once

#include <cmath>

#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

CHATSPACE_FN float activated(Activation act, float x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    default:
      return x > 0.0f || x != x ? x : 0.0f;  // NaN stays NaN
  }
}

// Element `index` of [rows, width].
CHATSPACE_FN void activate_element(const ActivationArgs& args, int64_t index) {
  const int64_t row = index / args.width;
  const int64_t column = index - row * args.width;
  const int64_t from = row * args.in_stride + column;
  const float value = activated(args.act, load(args.gate, from));
  store(args.out, row * args.out_stride + column, args.up.data == nullptr ? value : value * load(args.up, from));
}

}  // namespace chatspace::cuda
