// SPDX-License-Identifier: Apache-2.0
// Threaded matrix products on the current pool: cuts the work into chunks of weight rows (and of
// activation rows when there are many) that any thread may claim.
#pragma once

#include <cstdint>

#include "kernels/cpu_kernels.h"

namespace chatspace {

// One weight of a group that shares its input. Results go to columns out .. out + n.
struct LinearPart {
  const void* weight = nullptr;  // [n, k]
  ElementType type = ElementType::kFloat32;
  int64_t n = 0;
  const float* bias = nullptr;
  float* out = nullptr;
};

// out_p[t, n] = x[t] . weight_p[n] + bias_p[n] for every part.
void linear_parts(const float* x, int64_t x_stride, int64_t rows, int64_t k, const LinearPart* parts, int64_t count,
                  int64_t out_stride);

// out = act(x gate^T + bg) * (x up^T + bu), [rows, n]; `up.weight` null: out = act(x gate^T + bg).
void linear_activated(const float* x, int64_t x_stride, int64_t rows, int64_t k, const LinearPart& gate,
                      const LinearPart& up, Activation act, float* out, int64_t out_stride);

// GB/s of a plain threaded read loop over `bytes` of fresh memory, best of `runs`.
double read_bandwidth(int64_t bytes, int threads, int runs);

}  // namespace chatspace
