// SPDX-License-Identifier: Apache-2.0
// What the tests of the CUDA steering bodies share: tensors as kernel arguments, random programs.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/args.h"
#include "tests/check.h"

namespace chatspace::testing {

inline cuda::Dtype dtype_of(const at::Tensor& t) {
  return t.scalar_type() == at::kFloat      ? cuda::Dtype::kFloat32
         : t.scalar_type() == at::kBFloat16 ? cuda::Dtype::kBFloat16
                                            : cuda::Dtype::kFloat16;
}
inline cuda::ConstArray reads(const at::Tensor& t) { return {t.const_data_ptr(), dtype_of(t)}; }
inline cuda::Array writes(const at::Tensor& t) { return {t.mutable_data_ptr(), dtype_of(t)}; }

// The tables of one step with random programs, kept alive together.
struct RandomSteer {
  std::vector<at::Tensor> vectors;
  std::vector<SteerOp> ops;
  std::vector<SteerEntry> entries;
  std::vector<SteerRow> work;
  std::vector<SteerCounter> counters;
  at::Tensor captured;
  at::Tensor read;
  std::vector<float*> captures;
  std::vector<SteerReading> readings;
  float elsewhere[2] = {-0.7f, 0.7f};  // what gates read at another site

  const float* keep(const at::Tensor& v) {
    vectors.push_back(v.contiguous());
    return vectors.back().const_data_ptr<float>();
  }
  const float* direction(int64_t hidden) {
    const at::Tensor v = at::randn({hidden});
    return keep(v / v.norm());
  }
  RandomSteer(std::mt19937& random, int64_t rows, int64_t hidden) {
    std::uniform_real_distribution<float> real(-2.0f, 2.0f);
    for (int i = 0; i < 24; ++i) {
      SteerOp op{};
      op.kind = static_cast<SteerKind>(i % 8);
      op.scale = i == 0 ? 0.0f : real(random);
      op.min = random() % 3 == 0 ? -INFINITY : -std::abs(real(random));
      op.max = random() % 3 == 0 ? INFINITY : std::abs(real(random));
      op.mean = real(random) * 0.1f;
      op.amount = random() % 3 == 0 ? 1.0f : std::abs(real(random)) / 2;
      op.keep_norm = static_cast<int32_t>(random() % 3 == 0);
      op.counter = i;
      if (op.kind == SteerKind::kSubspace) {
        op.rank = hidden == 5 ? 2 : 5;
        op.vector = keep(std::get<0>(at::linalg_qr(at::randn({hidden, op.rank}))).t());
        op.second = keep(at::randn({3, op.rank}) * 0.5);
      } else if (op.kind == SteerKind::kAdd || op.kind == SteerKind::kReplace) {
        op.vector = keep(at::randn({hidden}));
      } else {
        op.vector = direction(hidden);
      }
      if (op.kind == SteerKind::kSwap) op.second = direction(hidden);
      if (i % 5 == 1) {
        op.gate = direction(hidden);
        op.gate_above = static_cast<int32_t>(random() % 2);
        op.gate_cosine = static_cast<int32_t>(random() % 2);
        op.threshold = 0.05f * real(random);
      }
      ops.push_back(op);
    }
    counters.resize(ops.size());
    captured = at::full({6, hidden}, NAN);
    read = at::full({rows, 2}, NAN);
    const float* directions = keep(at::randn({2, hidden}));
    for (int64_t row = 0; row < rows; ++row) {
      SteerRow each{};
      each.row = static_cast<int32_t>(row);
      each.entry_begin = static_cast<int32_t>(entries.size());
      const auto count = row % 4 == 3 ? 0u : 1 + static_cast<unsigned>(random() % 5);
      for (unsigned i = 0; i < count; ++i) {
        const float* gate = random() % 4 == 0 ? &elsewhere[random() % 2] : nullptr;
        entries.push_back({static_cast<int32_t>(random() % ops.size()), random() % 2 == 0 ? 1.0f : 0.5f, gate});
      }
      each.entry_end = static_cast<int32_t>(entries.size());
      each.capture_begin = static_cast<int32_t>(captures.size());
      if (row < 5) captures.push_back(captured.mutable_data_ptr<float>() + row * hidden);
      if (row == 2) captures.push_back(captured.mutable_data_ptr<float>() + 5 * hidden);
      each.capture_end = static_cast<int32_t>(captures.size());
      each.reading_begin = static_cast<int32_t>(readings.size());
      readings.push_back({directions, read.mutable_data_ptr<float>() + row * 2, 2, static_cast<int32_t>(row % 2)});
      each.reading_end = static_cast<int32_t>(readings.size());
      work.push_back(each);
    }
  }
  SteerCall call(int64_t rows, int64_t hidden) {
    const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
    return {rows,
            hidden,
            size(work),
            work.data(),
            size(entries),
            entries.data(),
            size(ops),
            ops.data(),
            counters.data(),
            size(captures),
            captures.data(),
            size(readings),
            readings.data()};
  }
};

}  // namespace chatspace::testing
