// SPDX-License-Identifier: Apache-2.0
// Bodies of the norm kernels: one row a block. A thread reads back only elements it wrote itself.
#pragma once

#include <cmath>

#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

// The row's sum of delta and residual, element `i`; written out on the way when it is wanted.
CHATSPACE_FN float summed(const NormArgs& args, int64_t index) {
  const float value = load(args.delta, index);
  return args.residual == nullptr ? value : value + args.residual[index];
}

template <class Block>
CHATSPACE_FN void rms_norm_row(Block& block, const NormArgs& args, int64_t row) {
  const int64_t base = row * args.hidden;
  float squares = 0.0f;
  for (int64_t i = block.rank(); i < args.hidden; i += block.size()) {
    const float value = summed(args, base + i);
    if (args.sum != nullptr) args.sum[base + i] = value;
    squares += value * value;
  }
  const float mean_square = block.sum(squares) / static_cast<float>(args.hidden);
  const float factor = 1.0f / sqrtf(mean_square + args.eps);
  for (int64_t i = block.rank(); i < args.hidden; i += block.size()) {
    const float value = args.sum != nullptr ? args.sum[base + i] : summed(args, base + i);
    store(args.normed, base + i, value * factor * load(args.weight, i));
  }
}

// Mean first, then the squares around it: one pass over both loses digits where |mean| is large.
template <class Block>
CHATSPACE_FN void layer_norm_row(Block& block, const NormArgs& args, int64_t row) {
  const int64_t base = row * args.hidden;
  float total = 0.0f;
  for (int64_t i = block.rank(); i < args.hidden; i += block.size()) {
    const float value = summed(args, base + i);
    if (args.sum != nullptr) args.sum[base + i] = value;
    total += value;
  }
  const float mean = block.sum(total) / static_cast<float>(args.hidden);
  float squares = 0.0f;
  for (int64_t i = block.rank(); i < args.hidden; i += block.size()) {
    const float value = (args.sum != nullptr ? args.sum[base + i] : summed(args, base + i)) - mean;
    squares += value * value;
  }
  const float factor = 1.0f / sqrtf(block.sum(squares) / static_cast<float>(args.hidden) + args.eps);
  for (int64_t i = block.rank(); i < args.hidden; i += block.size()) {
    const float value = (args.sum != nullptr ? args.sum[base + i] : summed(args, base + i)) - mean;
    const float bias = args.bias.data == nullptr ? 0.0f : load(args.bias, i);
    store(args.normed, base + i, value * factor * load(args.weight, i) + bias);
  }
}

}  // namespace chatspace::cuda
