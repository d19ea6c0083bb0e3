// SPDX-License-Identifier: Apache-2.0
// AVX-512 F, BW, DQ, VL: sixteen lanes, masked tails.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels/element.h"

namespace chatspace {
namespace {

struct Simd {
  static constexpr int W = 16;
  using V = __m512;

  static V set1(float x) { return _mm512_set1_ps(x); }
  static V zero() { return _mm512_setzero_ps(); }
  static __mmask16 lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(lanes(n), p); }
  static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static void store_n(float* p, V v, int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), v); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V min(V a, V b) { return _mm512_min_ps(a, b); }
  static V abs(V a) { return _mm512_abs_ps(a); }
  static V copysign(V a, V s) { return _mm512_or_ps(abs(a), _mm512_and_ps(set1(-0.0f), s)); }
  static V select_less(V a, V b, V yes, V no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static V round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static V scale2(V a, V n) { return _mm512_scalef_ps(a, n); }
  static float sum(V v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
  }
  // out[i] = sum(v[i]) for N vectors, sixteen at a time by transposing; the same tree of additions as sum().
  template <int N>
  static inline __attribute__((always_inline)) void sums(const V* v, float* out) {
    static_assert(N % 8 == 0);
#pragma GCC unroll 4
    for (int first = 0; first < N; first += 16) {
      V w[2];
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) {
        if (first + 8 * g >= N) {
          w[1] = w[0];
          break;
        }
        const V* a = v + first + 8 * g;
        const V u0 = fold_halves(fold_ends(a[0], a[1]), fold_ends(a[2], a[3]));
        const V u1 = fold_halves(fold_ends(a[4], a[5]), fold_ends(a[6], a[7]));
        w[g] = add(_mm512_shuffle_ps(u0, u1, 0x44), _mm512_shuffle_ps(u0, u1, 0xee));
      }
      const V r = add(_mm512_shuffle_ps(w[0], w[1], 0x88), _mm512_shuffle_ps(w[0], w[1], 0xdd));
      // Lane 4 a + b holds vector 4 b + a.
      const V order = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), r);
      if (first + 16 <= N) {
        store(out + first, order);
      } else {
        store_n(out + first, order, 8);
      }
    }
  }
  // [a0..7 + a8..15 | b0..7 + b8..15]
  static V fold_ends(V a, V b) { return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee)); }
  // Four vectors of eight lanes in two to four of four lanes in one.
  static V fold_halves(V a, V b) { return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); }
  static float maximum(V v) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    s = _mm_max_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
  }
  template <ElementType E>
  static V widen(__m256i h) {
    if constexpr (E == ElementType::kBFloat16) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    } else {
      return _mm512_cvtph_ps(h);
    }
  }
  template <ElementType E>
  static V load_as(const void* p, int64_t i) {
    if constexpr (E == ElementType::kFloat32) {
      return load(static_cast<const float*>(p) + i);
    } else {
      return widen<E>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(p) + i)));
    }
  }
  template <ElementType E>
  static V load_as_n(const void* p, int64_t i, int64_t n) {
    if constexpr (E == ElementType::kFloat32) {
      return load_n(static_cast<const float*>(p) + i, n);
    } else {
      return widen<E>(_mm256_maskz_loadu_epi16(lanes(n), static_cast<const uint16_t*>(p) + i));
    }
  }
  // Keeps a product from being fused with the sum that follows: dequantised values are two roundings.
  static V rounded(V v) {
    __asm__("" : "+v"(v));
    return v;
  }
  // The two float16 numbers at p as floats, in lanes 0 and 1 (read from memory: no shuffle port needed).
  static __m128 block_factors(const uint8_t* p) {
    int32_t bits;
    std::memcpy(&bits, p, 4);
    return _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
  }
  // The 32 weights of a block, in order. Four-bit levels choose among sixteen values that are computed
  // once a block; vpermps looks at the low four bits of a lane alone.
  template <ElementType E>
  static void load_block(const uint8_t* p, V* out) {
    const __m128 factors = block_factors(p);
    const V d = _mm512_broadcastss_ps(factors);
    if constexpr (E == ElementType::kQ8_0) {
      for (int i = 0; i < 2; ++i) {
        const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 + 16 * i));
        out[i] = mul(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)));
      }
    } else {
      V values;
      if constexpr (E == ElementType::kQ4_0) {
        values = mul(d, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
      } else {
        const V m = _mm512_broadcastss_ps(_mm_movehdup_ps(factors));
        values = add(rounded(mul(d, _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))), m);
      }
      const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + (E == ElementType::kQ4_0 ? 2 : 4)));
      const __m512i wide = _mm512_cvtepu8_epi32(q);
      out[0] = _mm512_permutexvar_ps(wide, values);
      out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(wide, 4), values);
    }
  }
  // Inlined at once: GCC takes a function that only prefetches for one without effects and drops its calls.
  static inline __attribute__((always_inline)) void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace
}  // namespace chatspace
