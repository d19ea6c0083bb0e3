// SPDX-License-Identifier: Apache-2.0
// The launches of the steering and norm kernels on an emulated block: one block a row, as on a device.
#pragma once

#include <cmath>
#include <vector>

#include "kernels/cuda/steer_norm_row.cuh"
#include "tests/cuda_random_steer.h"
#include "tests/emulated_block.h"

namespace chatspace::testing {

inline bool writes_residual(const at::Tensor& delta, const at::Tensor& residual) {
  return residual.defined() && delta.scalar_type() != at::kFloat && residual.scalar_type() == at::kFloat;
}

inline cuda::SteerArgs steer_args(const SteerCall& call, const at::Tensor& delta, const at::Tensor& residual) {
  cuda::SteerArgs args{};
  args.rows = call.active_rows;
  args.entries = call.entries;
  args.ops = call.ops;
  args.captures = call.captures;
  args.readings = call.readings;
  args.counters = call.counters;
  args.active = call.active;
  args.hidden = call.hidden;
  args.delta = writes(delta);
  if (residual.defined()) args.residual = writes(residual);
  args.to_residual = writes_residual(delta, residual);
  return args;
}

inline cuda::SlotArgs slot_args(uint8_t* tables, int64_t slot, const at::Tensor& delta, const at::Tensor& residual) {
  cuda::SlotArgs args{};
  args.tables = tables;
  args.slot = slot;
  args.hidden = delta.size(-1);
  args.rows = delta.numel() / args.hidden;
  args.delta = writes(delta);
  if (residual.defined()) args.residual = writes(residual);
  args.to_residual = writes_residual(delta, residual);
  return args;
}

// What a norm after a site makes of `delta` and `residual`.
struct EmulatedNorm {
  at::Tensor sum;
  at::Tensor normed;
  cuda::NormArgs args{};
  EmulatedNorm(const at::Tensor& delta, const at::Tensor& residual, const at::Tensor& weight, double eps)
      : sum(at::full(delta.sizes(), NAN)), normed(at::full(delta.sizes(), NAN).to(weight.scalar_type())) {
    args.delta = reads(delta);
    args.residual = residual.const_data_ptr<float>();
    args.sum = sum.mutable_data_ptr<float>();
    args.weight = reads(weight);
    args.normed = writes(normed);
    args.hidden = weight.numel();
    args.rows = delta.numel() / args.hidden;
    args.eps = static_cast<float>(eps);
  }
};

// body(lane, row, working memory) for `blocks` rows; the memory is full of rubbish from the row before.
template <class Body>
void emulate_rows(int64_t blocks, int64_t hidden, int threads, uint32_t seed, const Body& body) {
  std::vector<float> h(static_cast<size_t>(cuda::steer_floats(hidden)), NAN);
  EmulatedBlock block(threads, seed);
  for (int64_t row = 0; row < blocks; ++row) {
    block.run([&](EmulatedBlock::Lane& lane) { body(lane, row, h.data()); });
  }
}

inline void emulate_steer(const SteerCall& call, const at::Tensor& delta, const at::Tensor& residual, int threads,
                          uint32_t seed) {
  const cuda::SteerArgs args = steer_args(call, delta, residual);
  emulate_rows(call.active, call.hidden, threads, seed, [&](auto& lane, int64_t index, float* h) {
    cuda::steer_row(lane, args, args.rows[index], h);
  });
}

// As many blocks as the step has rows, whatever there is to do.
inline void emulate_slot(uint8_t* tables, int64_t slot, const at::Tensor& delta, const at::Tensor& residual,
                         int threads, uint32_t seed) {
  const cuda::SlotArgs args = slot_args(tables, slot, delta, residual);
  emulate_rows(args.rows, args.hidden, threads, seed,
               [&](auto& lane, int64_t index, float* h) { cuda::steer_slot_row(lane, args, index, h); });
}

inline EmulatedNorm emulate_norm(const at::Tensor& delta, const at::Tensor& residual, const at::Tensor& weight,
                                 double eps, int threads, uint32_t seed) {
  EmulatedNorm norm(delta, residual, weight, eps);
  emulate_rows(norm.args.rows, norm.args.hidden, threads, seed,
               [&](auto& lane, int64_t row, float*) { cuda::rms_norm_row(lane, norm.args, row); });
  return norm;
}

// paired: the site's hidden state is delta + residual, else delta alone.
inline EmulatedNorm emulate_steer_norm(const SteerCall& call, bool paired, const at::Tensor& delta,
                                       const at::Tensor& residual, const at::Tensor& weight, double eps, int threads,
                                       uint32_t seed) {
  EmulatedNorm norm(delta, residual, weight, eps);
  const cuda::SteerNormArgs args{steer_args(call, delta, paired ? residual : at::Tensor()), norm.args};
  emulate_rows(norm.args.rows, norm.args.hidden, threads, seed,
               [&](auto& lane, int64_t row, float* h) { cuda::steer_norm_row(lane, args, row, h); });
  return norm;
}

inline EmulatedNorm emulate_slot_norm(uint8_t* tables, int64_t slot, bool paired, const at::Tensor& delta,
                                      const at::Tensor& residual, const at::Tensor& weight, double eps, int threads,
                                      uint32_t seed) {
  EmulatedNorm norm(delta, residual, weight, eps);
  const cuda::SlotNormArgs args{slot_args(tables, slot, delta, paired ? residual : at::Tensor()), norm.args};
  emulate_rows(norm.args.rows, norm.args.hidden, threads, seed,
               [&](auto& lane, int64_t row, float* h) { cuda::steer_norm_slot_row(lane, args, row, h); });
  return norm;
}

}  // namespace chatspace::testing
