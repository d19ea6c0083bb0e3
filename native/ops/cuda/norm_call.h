// SPDX-License-Identifier: Apache-2.0
// One norm prepared for its launch: checked, dense, results allocated.
#pragma once

#include "ops/cuda/launches.h"

namespace chatspace::cuda {

// Holds the tensors that `args` points into: lives until the launch is queued.
struct NormCall {
  at::Tensor delta;
  at::Tensor residual;  // undefined: none
  at::Tensor weight;
  OptionalTensor bias;
  at::Tensor sum;       // float32, undefined unless wanted
  at::Tensor normed;    // of the weight's dtype
  NormArgs args{};

  // want_sum: the sum of delta and residual is kept (add_*) or not (plain norms). The device must be current.
  static NormCall prepare(const at::Tensor& delta, const at::Tensor& residual, const at::Tensor& weight,
                          const OptionalTensor& bias, double eps, bool want_sum);
};

}  // namespace chatspace::cuda
