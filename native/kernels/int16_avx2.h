// SPDX-License-Identifier: Apache-2.0
// Products of a block of levels and a block of int16 activations: AVX2, two vectors of sixteen.
#pragma once

#include "kernels/int16_rows.h"
#include "kernels/simd_avx2.h"

namespace chatspace {
namespace {

struct Int16 {
  using V = Simd::V;
  // Blocks one product covers.
  template <ElementType E>
  static constexpr int kStep = 1;
  struct Block {
    __m256i first, second;
  };

  // `count` float16 numbers at p as floats, the lanes behind them zero. Reads whole vectors: rows are long
  // enough, since at least 16 bytes of levels follow what is read here.
  static V halves(const uint8_t* p, int64_t count) {
    const V all = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return count >= Simd::W ? all : _mm256_and_ps(all, _mm256_castsi256_ps(Simd::lanes(count)));
  }
  template <ElementType E>
  static Block levels(const uint8_t* p, int64_t) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    if constexpr (E == ElementType::kQ8_0Planes) {
      return {_mm256_cvtepi8_epi16(_mm_loadu_si128(q)), _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))};
    } else {
      const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(q));
      return {_mm256_and_si256(wide, _mm256_set1_epi16(15)), _mm256_srli_epi16(wide, 4)};
    }
  }
  template <ElementType E>
  static Block activations(const int16_t* p, int64_t) {
    const auto* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  template <ElementType E>
  static V dot(const Block& w, const Block& x) {
    return _mm256_cvtepi32_ps(
        _mm256_add_epi32(_mm256_madd_epi16(w.first, x.first), _mm256_madd_epi16(w.second, x.second)));
  }
  template <ElementType E>
  static V factor(const float* f) {
    return _mm256_broadcast_ss(f);
  }

  // One block of 32 values: q, scale and sum (see int16_rows.h).
  static void quantize(const float* x, int16_t* q, float* scale, float* sum) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i bits = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      bits = _mm256_max_epi32(bits, _mm256_and_si256(_mm256_castps_si256(Simd::load(x + 8 * i)), magnitude));
    }
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    const float largest = bits_to_float(static_cast<uint32_t>(_mm_cvtsi128_si32(most)));
    const Int16Scale s = int16_scale(largest);
    const V inverse = Simd::set1(s.inverse);
    __m256i total = _mm256_setzero_si256();
    for (int i = 0; i < 2; ++i) {
      const __m256i low = _mm256_cvtps_epi32(Simd::mul(Simd::load(x + 16 * i), inverse));
      const __m256i high = _mm256_cvtps_epi32(Simd::mul(Simd::load(x + 16 * i + 8), inverse));
      __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
      if (s.inverse == 0.0f) packed = _mm256_setzero_si256();
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + 16 * i), packed);
      total = _mm256_add_epi32(total, _mm256_madd_epi16(packed, _mm256_set1_epi16(1)));
    }
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    *scale = s.scale;
    *sum = s.scale * static_cast<float>(_mm_cvtsi128_si32(t));
  }
};

}  // namespace
}  // namespace chatspace
