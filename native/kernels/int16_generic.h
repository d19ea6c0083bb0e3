// SPDX-License-Identifier: Apache-2.0
// Products of a block of levels and a block of int16 activations in plain integers.
#pragma once

#include "kernels/int16_rows.h"
#include "kernels/simd_generic.h"

namespace chatspace {
namespace {

struct Int16 {
  using V = Simd::V;
  // Blocks one product covers.
  template <ElementType E>
  static constexpr int kStep = 1;
  struct Levels {
    int16_t q[kQuantBlock];
  };

  // `count` float16 numbers at p as floats, the lanes behind them zero.
  static V halves(const uint8_t* p, int64_t count) {
    uint16_t h[Simd::W] = {};
    std::memcpy(h, p, static_cast<size_t>(count < Simd::W ? count : Simd::W) * 2);
    return V{float16_to_float(h[0]), float16_to_float(h[1]), float16_to_float(h[2]), float16_to_float(h[3])};
  }
  template <ElementType E>
  static Levels levels(const uint8_t* p, int64_t) {
    Levels out;
    if constexpr (E == ElementType::kQ8_0Planes) {
      for (int i = 0; i < 32; ++i) out.q[i] = static_cast<int8_t>(p[i]);
    } else {
      for (int i = 0; i < 16; ++i) {
        out.q[i] = p[i] & 15;
        out.q[16 + i] = p[i] >> 4;
      }
    }
    return out;
  }
  template <ElementType E>
  static const int16_t* activations(const int16_t* p, int64_t) {
    return p;
  }
  template <ElementType E>
  static V dot(const Levels& w, const int16_t* x) {
    int32_t sum = 0;
    for (int i = 0; i < 32; ++i) sum += static_cast<int32_t>(w.q[i]) * x[i];
    return V{static_cast<float>(sum), 0.0f, 0.0f, 0.0f};
  }
  template <ElementType E>
  static V factor(const float* f) {
    return Simd::set1(*f);
  }

  // One block of 32 values: q, scale and sum (see int16_rows.h).
  static void quantize(const float* x, int16_t* q, float* scale, float* sum) {
    uint32_t most = 0;
    for (int i = 0; i < 32; ++i) {
      const uint32_t bits = float_to_bits(x[i]) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
    const Int16Scale s = int16_scale(bits_to_float(most));
    int32_t total = 0;
    for (int i = 0; i < 32; ++i) {
      // Round to nearest even, as the vector units do.
      q[i] = s.inverse == 0.0f ? int16_t{0} : static_cast<int16_t>(__builtin_lrintf(x[i] * s.inverse));
      total += q[i];
    }
    *scale = s.scale;
    *sum = s.scale * static_cast<float>(total);
  }
};

}  // namespace
}  // namespace chatspace
