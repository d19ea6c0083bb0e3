// SPDX-License-Identifier: Apache-2.0
// Products of levels and int16 activations: AVX-512 BW. A block of eight bits is one vector of 32; blocks
// of four bits go in pairs, the first block in the low half of each vector. With VNNI the second product
// of a pair adds to the first in one instruction; the sums are the same integers.
#pragma once

#include "kernels/int16_rows.h"
#include "kernels/simd_avx512.h"

namespace chatspace {
namespace {

struct Int16 {
  using V = Simd::V;
  // Blocks one product covers.
  template <ElementType E>
  static constexpr int kStep = E == ElementType::kQ8_0Planes ? 1 : 2;
  struct Block {
    __m512i first, second;  // eight bits: the first alone
  };

  // `count` float16 numbers at p as floats, the lanes behind them zero.
  static V halves(const uint8_t* p, int64_t count) {
    return _mm512_cvtph_ps(count >= Simd::W ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                            : _mm256_maskz_loadu_epi16(Simd::lanes(count), p));
  }
  // Of `left` blocks from here on the first kStep; a missing second one is zero.
  template <ElementType E>
  static Block levels(const uint8_t* p, int64_t left) {
    if constexpr (E == ElementType::kQ8_0Planes) {
      const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
      return {wide, wide};
    } else {
      const __m256i bytes = left >= 2 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                      : _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
      const __m512i wide = _mm512_cvtepu8_epi16(bytes);
      return {_mm512_and_si512(wide, _mm512_set1_epi16(15)), _mm512_srli_epi16(wide, 4)};
    }
  }
  template <ElementType E>
  static Block activations(const int16_t* p, int64_t left) {
    const __m512i one = _mm512_loadu_si512(p);
    if constexpr (E == ElementType::kQ8_0Planes) {
      return {one, one};
    } else {
      const __m512i two = left >= 2 ? _mm512_loadu_si512(p + kQuantBlock) : _mm512_setzero_si512();
      return {_mm512_shuffle_i64x2(one, two, 0x44), _mm512_shuffle_i64x2(one, two, 0xee)};
    }
  }
  template <ElementType E>
  static V dot(const Block& w, const Block& x) {
    __m512i sum = _mm512_madd_epi16(w.first, x.first);
    if constexpr (E != ElementType::kQ8_0Planes) {
#if defined(__AVX512VNNI__)
      sum = _mm512_dpwssd_epi32(sum, w.second, x.second);
#else
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w.second, x.second));
#endif
    }
    return _mm512_cvtepi32_ps(sum);
  }
  template <ElementType E>
  static V factor(const float* f) {
    if constexpr (E == ElementType::kQ8_0Planes) {
      return _mm512_set1_ps(*f);
    } else {
      const __m512d both = _mm512_set1_pd(*reinterpret_cast<const double*>(f));
      return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
                                   _mm512_castpd_ps(both));
    }
  }

  // One block of 32 values: q, scale and sum (see int16_rows.h).
  static void quantize(const float* x, int16_t* q, float* scale, float* sum) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const V first = Simd::load(x), second = Simd::load(x + 16);
    const __m512i bits = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(first), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(second), magnitude));
    const Int16Scale s = int16_scale(bits_to_float(static_cast<uint32_t>(_mm512_reduce_max_epi32(bits))));
    const V inverse = Simd::set1(s.inverse);
    const __mmask16 kept = s.inverse == 0.0f ? 0 : 0xffff;
    const __m512i low = _mm512_maskz_cvtps_epi32(kept, Simd::mul(first, inverse));
    const __m512i high = _mm512_maskz_cvtps_epi32(kept, Simd::mul(second, inverse));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_cvtsepi32_epi16(low));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + 16), _mm512_cvtsepi32_epi16(high));
    *scale = s.scale;
    *sum = s.scale * static_cast<float>(_mm512_reduce_add_epi32(_mm512_add_epi32(low, high)));
  }
};

}  // namespace
}  // namespace chatspace
