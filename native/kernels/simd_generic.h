// SPDX-License-Identifier: Apache-2.0
// Four lanes of plain compiler vectors: runs on any processor (SSE2, NEON, ...).
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/element.h"

namespace chatspace {
namespace {

struct Simd {
  static constexpr int W = 4;
  typedef float V __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));

  static V set1(float x) { return V{x, x, x, x}; }
  static V zero() { return set1(0.0f); }
  static V load(const float* p) {
    V v;
    std::memcpy(&v, p, 16);
    return v;
  }
  static V load_n(const float* p, int64_t n) {
    V v = zero();
    std::memcpy(&v, p, static_cast<size_t>(n) * 4);
    return v;
  }
  static void store(float* p, V v) { std::memcpy(p, &v, 16); }
  static void store_n(float* p, V v, int64_t n) { std::memcpy(p, &v, static_cast<size_t>(n) * 4); }
  static V add(V a, V b) { return a + b; }
  static V sub(V a, V b) { return a - b; }
  static V mul(V a, V b) { return a * b; }
  static V div(V a, V b) { return a / b; }
  static V fma(V a, V b, V c) { return a * b + c; }
  // The second operand when either is NaN, as on x86.
  static V max(V a, V b) { return a > b ? a : b; }
  static V min(V a, V b) { return a < b ? a : b; }
  static V abs(V a) { return (V)((I)a & 0x7fffffff); }
  static V copysign(V a, V s) { return (V)(((I)a & 0x7fffffff) | ((I)s & (I)set1(-0.0f))); }
  static V select_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static V round(V a) {
    const V magic = copysign(set1(8388608.0f), a);
    return (a + magic) - magic;
  }
  // a * 2^n, n integral and the result normal.
  static V scale2(V a, V n) { return a * (V)((__builtin_convertvector(n, I) + 127) << 23); }
  static float sum(V v) { return (v[0] + v[2]) + (v[1] + v[3]); }
  // out[i] = sum(v[i]) for N vectors.
  template <int N>
  static void sums(const V* v, float* out) {
    for (int i = 0; i < N; ++i) out[i] = sum(v[i]);
  }
  static float maximum(V v) {
    float m = v[0];
    for (int i = 1; i < W; ++i) m = m > v[i] ? m : v[i];
    return m;
  }
  template <ElementType E>
  static V load_as(const void* p, int64_t i) {
    if constexpr (E == ElementType::kFloat32) return load(static_cast<const float*>(p) + i);
    V v = zero();
    const uint16_t* h = static_cast<const uint16_t*>(p) + i;
    for (int j = 0; j < W; ++j) v[j] = E == ElementType::kBFloat16 ? bfloat16_to_float(h[j]) : float16_to_float(h[j]);
    return v;
  }
  template <ElementType E>
  static V load_as_n(const void* p, int64_t i, int64_t n) {
    if constexpr (E == ElementType::kFloat32) return load_n(static_cast<const float*>(p) + i, n);
    uint16_t h[W] = {};
    std::memcpy(h, static_cast<const uint16_t*>(p) + i, static_cast<size_t>(n) * 2);
    return load_as<E>(h, 0);
  }
  // The 32 weights of a block, in order.
  template <ElementType E>
  static void load_block(const uint8_t* p, V* out) {
    float values[kQuantBlock];
    uint16_t half;
    std::memcpy(&half, p, 2);
    const float d = float16_to_float(half);
    if constexpr (E == ElementType::kQ8_0) {
      for (int i = 0; i < 32; ++i) values[i] = d * static_cast<float>(static_cast<int8_t>(p[2 + i]));
    } else {
      std::memcpy(&half, p + 2, 2);
      const float m = float16_to_float(half);
      const uint8_t* q = p + (E == ElementType::kQ4_0 ? 2 : 4);
      for (int i = 0; i < 32; ++i) {
        const int n = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
        if constexpr (E == ElementType::kQ4_0) {
          values[i] = d * static_cast<float>(n - 8);
        } else {
          // volatile: the product is rounded before the sum, also where the compiler could fuse them.
          volatile float product = d * static_cast<float>(n);
          values[i] = product + m;
        }
      }
    }
    for (int i = 0; i < 32 / W; ++i) out[i] = load(values + i * W);
  }
  // Inlined at once: GCC takes a function that only prefetches for one without effects and drops its calls.
  static inline __attribute__((always_inline)) void prefetch(const void* p) { __builtin_prefetch(p); }
};

}  // namespace
}  // namespace chatspace
