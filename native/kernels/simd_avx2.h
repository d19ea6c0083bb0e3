// SPDX-License-Identifier: Apache-2.0
// AVX2 + FMA + F16C, eight lanes.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels/element.h"

namespace chatspace {
namespace {

struct Simd {
  static constexpr int W = 8;
  using V = __m256;

  static V set1(float x) { return _mm256_set1_ps(x); }
  static V zero() { return _mm256_setzero_ps(); }
  static __m256i lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static V load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, lanes(n)); }
  static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static void store_n(float* p, V v, int64_t n) { _mm256_maskstore_ps(p, lanes(n), v); }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V min(V a, V b) { return _mm256_min_ps(a, b); }
  static V abs(V a) { return _mm256_andnot_ps(set1(-0.0f), a); }
  static V copysign(V a, V s) { return _mm256_or_ps(abs(a), _mm256_and_ps(set1(-0.0f), s)); }
  static V select_less(V a, V b, V yes, V no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  static V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static V scale2(V a, V n) {
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(bits));
  }
  static float sum(V v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
  }
  // out[i] = sum(v[i]) for N vectors.
  template <int N>
  static void sums(const V* v, float* out) {
    for (int i = 0; i < N; ++i) out[i] = sum(v[i]);
  }
  static float maximum(V v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
  }
  template <ElementType E>
  static V widen(__m128i h) {
    if constexpr (E == ElementType::kBFloat16) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    } else {
      return _mm256_cvtph_ps(h);
    }
  }
  template <ElementType E>
  static V load_as(const void* p, int64_t i) {
    if constexpr (E == ElementType::kFloat32) {
      return load(static_cast<const float*>(p) + i);
    } else {
      return widen<E>(_mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(p) + i)));
    }
  }
  template <ElementType E>
  static V load_as_n(const void* p, int64_t i, int64_t n) {
    if constexpr (E == ElementType::kFloat32) {
      return load_n(static_cast<const float*>(p) + i, n);
    } else {
      alignas(16) uint16_t h[8] = {};
      std::memcpy(h, static_cast<const uint16_t*>(p) + i, static_cast<size_t>(n) * 2);
      return widen<E>(_mm_load_si128(reinterpret_cast<const __m128i*>(h)));
    }
  }
  // Keeps a product from being fused with the sum that follows: dequantised values are two roundings.
  static V rounded(V v) {
    __asm__("" : "+x"(v));
    return v;
  }
  static V block_factor(const uint8_t* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    return _mm256_set1_ps(_cvtsh_ss(half));
  }
  // The 32 weights of a block, in order.
  template <ElementType E>
  static void load_block(const uint8_t* p, V* out) {
    const V d = block_factor(p);
    if constexpr (E == ElementType::kQ8_0) {
      for (int i = 0; i < 4; ++i) {
        const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 2 + 8 * i));
        out[i] = mul(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)));
      }
    } else {
      const uint8_t* q = p + (E == ElementType::kQ4_0 ? 2 : 4);
      for (int i = 0; i < 2; ++i) {
        const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + 8 * i)));
        const __m256i low = _mm256_and_si256(wide, _mm256_set1_epi32(15));
        const __m256i high = _mm256_srli_epi32(wide, 4);
        if constexpr (E == ElementType::kQ4_0) {
          out[i] = mul(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(8))));
          out[2 + i] = mul(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(high, _mm256_set1_epi32(8))));
        } else {
          const V m = block_factor(p + 2);
          out[i] = add(rounded(mul(d, _mm256_cvtepi32_ps(low))), m);
          out[2 + i] = add(rounded(mul(d, _mm256_cvtepi32_ps(high))), m);
        }
      }
    }
  }
  // Inlined at once: GCC takes a function that only prefetches for one without effects and drops its calls.
  static inline __attribute__((always_inline)) void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace chatspace
