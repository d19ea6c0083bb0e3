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

}  // namespace chatspace::cuda
