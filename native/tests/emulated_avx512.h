// SPDX-License-Identifier: Apache-2.0
// The AVX-512 (F, BW, DQ, VL, VNNI) intrinsics that the kernels use, in plain C++ over AVX2, so that the kernels'
// own source for AVX-512 runs in the tests on a processor without it. Lanes are numbered and rounded as Intel's
// manual says; masked loads and stores touch the chosen lanes alone. To be included before that source, by one
// file, which is compiled without contraction (a * b + c is two roundings unless fmadd is asked for).
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#pragma GCC diagnostic ignored "-Wpsabi"

namespace chatspace::testing {
namespace {

using Floats512 = float __attribute__((vector_size(64)));
using Doubles512 = double __attribute__((vector_size(64)));
using Ints512 = int32_t __attribute__((vector_size(64)));
using Shorts512 = int16_t __attribute__((vector_size(64)));

template <class To, class From>
inline To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

struct Floats256x2 {
  __m256 part[2];
};

#define EMULATED static inline __attribute__((always_inline))

// Elementwise over `lanes`, i is the lane.
template <class V, int Lanes, class F>
EMULATED V lanewise(F f) {
  V out;
#pragma GCC unroll 32
  for (int i = 0; i < Lanes; ++i) out[i] = f(i);
  return out;
}

EMULATED Floats512 emulated_set1_ps(float x) { return lanewise<Floats512, 16>([&](int) { return x; }); }
EMULATED Floats512 emulated_setzero_ps() { return Floats512{}; }
EMULATED Ints512 emulated_setzero_si512() { return Ints512{}; }
EMULATED Ints512 emulated_set1_epi32(int32_t x) { return lanewise<Ints512, 16>([&](int) { return x; }); }
EMULATED Ints512 emulated_set1_epi16(int16_t x) {
  return as<Ints512>(lanewise<Shorts512, 32>([&](int) { return x; }));
}
EMULATED Doubles512 emulated_set1_pd(double x) { return Doubles512{x, x, x, x, x, x, x, x}; }
template <class... X>
EMULATED Floats512 emulated_setr_ps(X... x) {
  return Floats512{static_cast<float>(x)...};
}
template <class... X>
EMULATED Ints512 emulated_setr_epi32(X... x) {
  return Ints512{static_cast<int32_t>(x)...};
}

EMULATED Floats512 emulated_loadu_ps(const void* p) {
  Floats512 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
EMULATED Ints512 emulated_loadu_si512(const void* p) {
  Ints512 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
EMULATED void emulated_storeu_ps(void* p, Floats512 v) { std::memcpy(p, &v, sizeof v); }
EMULATED Floats512 emulated_maskz_loadu_ps(uint16_t mask, const float* p) {
  Floats512 v{};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) v[i] = p[i];
  }
  return v;
}
EMULATED void emulated_mask_storeu_ps(float* p, uint16_t mask, Floats512 v) {
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) p[i] = v[i];
  }
}
EMULATED __m256i emulated_256_maskz_loadu_epi16(uint16_t mask, const void* p) {
  int16_t v[16] = {};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) std::memcpy(v + i, static_cast<const char*>(p) + 2 * i, 2);
  }
  return as<__m256i>(v);
}

EMULATED Floats512 emulated_add_ps(Floats512 a, Floats512 b) { return a + b; }
EMULATED Floats512 emulated_sub_ps(Floats512 a, Floats512 b) { return a - b; }
EMULATED Floats512 emulated_mul_ps(Floats512 a, Floats512 b) { return a * b; }
EMULATED Floats512 emulated_div_ps(Floats512 a, Floats512 b) { return a / b; }
EMULATED Floats512 emulated_fmadd_ps(Floats512 a, Floats512 b, Floats512 c) {
  const auto x = as<Floats256x2>(a), y = as<Floats256x2>(b), z = as<Floats256x2>(c);
  return as<Floats512>(Floats256x2{{_mm256_fmadd_ps(x.part[0], y.part[0], z.part[0]),
                                    _mm256_fmadd_ps(x.part[1], y.part[1], z.part[1])}});
}
// The second operand when one is not a number or both are zero, as MAXPS and MINPS do.
EMULATED Floats512 emulated_max_ps(Floats512 a, Floats512 b) { return a > b ? a : b; }
EMULATED Floats512 emulated_min_ps(Floats512 a, Floats512 b) { return a < b ? a : b; }
EMULATED Floats512 emulated_and_ps(Floats512 a, Floats512 b) { return as<Floats512>(as<Ints512>(a) & as<Ints512>(b)); }
EMULATED Floats512 emulated_or_ps(Floats512 a, Floats512 b) { return as<Floats512>(as<Ints512>(a) | as<Ints512>(b)); }
EMULATED Floats512 emulated_abs_ps(Floats512 a) {
  return as<Floats512>(as<Ints512>(a) & emulated_set1_epi32(0x7fffffff));
}
EMULATED uint16_t emulated_cmp_ps_mask(Floats512 a, Floats512 b, int predicate) {
  if (predicate != _CMP_LT_OQ) __builtin_trap();
  uint16_t mask = 0;
  for (int i = 0; i < 16; ++i) mask = static_cast<uint16_t>(mask | (a[i] < b[i] ? 1u << i : 0u));
  return mask;
}
EMULATED Floats512 emulated_mask_blend_ps(uint16_t mask, Floats512 a, Floats512 b) {
  return lanewise<Floats512, 16>([&](int i) { return (mask >> i & 1) != 0 ? b[i] : a[i]; });
}
EMULATED Floats512 emulated_roundscale_ps(Floats512 a, int how) {
  if (how != (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) __builtin_trap();
  return lanewise<Floats512, 16>([&](int i) { return std::nearbyint(a[i]); });
}
// a 2^floor(n), rounded once.
EMULATED Floats512 emulated_scalef_ps(Floats512 a, Floats512 n) {
  return lanewise<Floats512, 16>([&](int i) {
    if (std::isnan(a[i]) || std::isnan(n[i])) return std::numeric_limits<float>::quiet_NaN();
    return std::ldexp(a[i], static_cast<int>(std::clamp(std::floor(n[i]), -1000.0f, 1000.0f)));
  });
}

EMULATED Floats512 emulated_castsi512_ps(Ints512 a) { return as<Floats512>(a); }
EMULATED Ints512 emulated_castps_si512(Floats512 a) { return as<Ints512>(a); }
EMULATED Floats512 emulated_castpd_ps(Doubles512 a) { return as<Floats512>(a); }
EMULATED __m256 emulated_castps512_ps256(Floats512 a) { return as<Floats256x2>(a).part[0]; }
EMULATED __m256 emulated_extractf32x8_ps(Floats512 a, int half) { return as<Floats256x2>(a).part[half]; }
EMULATED Floats512 emulated_broadcastss_ps(__m128 a) { return emulated_set1_ps(_mm_cvtss_f32(a)); }

EMULATED Floats512 emulated_shuffle_ps(Floats512 a, Floats512 b, int s) {
  return lanewise<Floats512, 16>([&](int i) {
    const int from = (i & ~3) + (s >> (i & 3) * 2 & 3);
    return (i & 2) == 0 ? a[from] : b[from];
  });
}
// Quarters of 128 bits: two chosen from a, two from b.
template <class V>
EMULATED V emulated_quarters(V a, V b, int s) {
  return lanewise<V, 16>([&](int i) {
    const int from = (s >> (i / 4) * 2 & 3) * 4 + i % 4;
    return i < 8 ? a[from] : b[from];
  });
}
EMULATED Floats512 emulated_permutexvar_ps(Ints512 index, Floats512 a) {
  return lanewise<Floats512, 16>([&](int i) { return a[index[i] & 15]; });
}

template <class V, int Lanes, class From, class Bits>
EMULATED V emulated_widen(const Bits& bits) {
  From from[Lanes];
  static_assert(sizeof from == sizeof bits);
  std::memcpy(from, &bits, sizeof from);
  return lanewise<V, Lanes>([&](int i) { return from[i]; });
}
EMULATED Ints512 emulated_cvtepi8_epi32(__m128i a) { return emulated_widen<Ints512, 16, int8_t>(a); }
EMULATED Ints512 emulated_cvtepu8_epi32(__m128i a) { return emulated_widen<Ints512, 16, uint8_t>(a); }
EMULATED Ints512 emulated_cvtepu16_epi32(__m256i a) { return emulated_widen<Ints512, 16, uint16_t>(a); }
EMULATED Ints512 emulated_cvtepi8_epi16(__m256i a) { return as<Ints512>(emulated_widen<Shorts512, 32, int8_t>(a)); }
EMULATED Ints512 emulated_cvtepu8_epi16(__m256i a) { return as<Ints512>(emulated_widen<Shorts512, 32, uint8_t>(a)); }
EMULATED Floats512 emulated_cvtepi32_ps(Ints512 a) { return __builtin_convertvector(a, Floats512); }
EMULATED Floats512 emulated_cvtph_ps(__m256i a) {
  return as<Floats512>(Floats256x2{{_mm256_cvtph_ps(_mm256_castsi256_si128(a)),
                                    _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))}});
}
EMULATED Ints512 emulated_maskz_cvtps_epi32(uint16_t mask, Floats512 a) {
  return lanewise<Ints512, 16>([&](int i) {
    if ((mask >> i & 1) == 0) return 0;
    const float whole = std::nearbyint(a[i]);
    return whole >= -0x1p31f && whole < 0x1p31f ? static_cast<int32_t>(whole) : std::numeric_limits<int32_t>::min();
  });
}
EMULATED __m256i emulated_cvtsepi32_epi16(Ints512 a) {
  int16_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = static_cast<int16_t>(std::clamp(a[i], -32768, 32767));
  return as<__m256i>(out);
}

EMULATED Ints512 emulated_add_epi32(Ints512 a, Ints512 b) {
  using Unsigned = uint32_t __attribute__((vector_size(64)));
  return as<Ints512>(as<Unsigned>(a) + as<Unsigned>(b));
}
EMULATED Ints512 emulated_and_si512(Ints512 a, Ints512 b) { return a & b; }
EMULATED Ints512 emulated_max_epi32(Ints512 a, Ints512 b) { return a > b ? a : b; }
EMULATED Ints512 emulated_slli_epi32(Ints512 a, unsigned n) { return a << static_cast<int>(n); }
EMULATED Ints512 emulated_srli_epi32(Ints512 a, unsigned n) {
  using Unsigned = uint32_t __attribute__((vector_size(64)));
  return as<Ints512>(as<Unsigned>(a) >> n);
}
EMULATED Ints512 emulated_srli_epi16(Ints512 a, unsigned n) {
  using Unsigned = uint16_t __attribute__((vector_size(64)));
  return as<Ints512>(as<Unsigned>(a) >> static_cast<uint16_t>(n));
}
EMULATED Ints512 emulated_madd_epi16(Ints512 a, Ints512 b) {
  const auto x = as<Shorts512>(a), y = as<Shorts512>(b);
  return lanewise<Ints512, 16>([&](int i) {
    // Wraps in one case alone: all four are -32768.
    return static_cast<int32_t>(static_cast<int64_t>(x[2 * i]) * y[2 * i] + static_cast<int64_t>(x[2 * i + 1]) * y[2 * i + 1]);
  });
}
EMULATED Ints512 emulated_dpwssd_epi32(Ints512 sum, Ints512 a, Ints512 b) {
  return emulated_add_epi32(sum, emulated_madd_epi16(a, b));
}
EMULATED int32_t emulated_reduce_add_epi32(Ints512 a) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += static_cast<uint32_t>(a[i]);
  return static_cast<int32_t>(sum);
}
EMULATED int32_t emulated_reduce_max_epi32(Ints512 a) {
  int32_t top = a[0];
  for (int i = 1; i < 16; ++i) top = std::max(top, a[i]);
  return top;
}

}  // namespace
}  // namespace chatspace::testing

// What the kernels' source calls.
// Some are macros already when the compiler does not optimise.
#undef _mm512_abs_ps
#undef _mm512_add_epi32
#undef _mm512_add_ps
#undef _mm512_and_ps
#undef _mm512_and_si512
#undef _mm512_broadcastss_ps
#undef _mm512_castpd_ps
#undef _mm512_castps512_ps256
#undef _mm512_castps_si512
#undef _mm512_castsi512_ps
#undef _mm512_cmp_ps_mask
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi16
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi16
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtsepi32_epi16
#undef _mm512_div_ps
#undef _mm512_dpwssd_epi32
#undef _mm512_extractf32x8_ps
#undef _mm512_fmadd_ps
#undef _mm512_loadu_ps
#undef _mm512_loadu_si512
#undef _mm512_madd_epi16
#undef _mm512_mask_blend_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_cvtps_epi32
#undef _mm512_maskz_loadu_ps
#undef _mm512_max_epi32
#undef _mm512_max_ps
#undef _mm512_min_ps
#undef _mm512_mul_ps
#undef _mm512_or_ps
#undef _mm512_permutexvar_ps
#undef _mm512_reduce_add_epi32
#undef _mm512_reduce_max_epi32
#undef _mm512_roundscale_ps
#undef _mm512_scalef_ps
#undef _mm512_set1_epi16
#undef _mm512_set1_epi32
#undef _mm512_set1_pd
#undef _mm512_set1_ps
#undef _mm512_setr_epi32
#undef _mm512_setr_ps
#undef _mm512_setzero_ps
#undef _mm512_setzero_si512
#undef _mm512_shuffle_ps
#undef _mm512_slli_epi32
#undef _mm512_srli_epi16
#undef _mm512_srli_epi32
#undef _mm512_storeu_ps
#undef _mm512_sub_ps
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_i64x2
#undef _mm256_maskz_loadu_epi16
#define __m512 ::chatspace::testing::Floats512
#define __m512i ::chatspace::testing::Ints512
#define __m512d ::chatspace::testing::Doubles512
#define _mm512_abs_ps ::chatspace::testing::emulated_abs_ps
#define _mm512_add_epi32 ::chatspace::testing::emulated_add_epi32
#define _mm512_add_ps ::chatspace::testing::emulated_add_ps
#define _mm512_and_ps ::chatspace::testing::emulated_and_ps
#define _mm512_and_si512 ::chatspace::testing::emulated_and_si512
#define _mm512_broadcastss_ps ::chatspace::testing::emulated_broadcastss_ps
#define _mm512_castpd_ps ::chatspace::testing::emulated_castpd_ps
#define _mm512_castps512_ps256 ::chatspace::testing::emulated_castps512_ps256
#define _mm512_castps_si512 ::chatspace::testing::emulated_castps_si512
#define _mm512_castsi512_ps ::chatspace::testing::emulated_castsi512_ps
#define _mm512_cmp_ps_mask ::chatspace::testing::emulated_cmp_ps_mask
#define _mm512_cvtepi32_ps ::chatspace::testing::emulated_cvtepi32_ps
#define _mm512_cvtepi8_epi16 ::chatspace::testing::emulated_cvtepi8_epi16
#define _mm512_cvtepi8_epi32 ::chatspace::testing::emulated_cvtepi8_epi32
#define _mm512_cvtepu16_epi32 ::chatspace::testing::emulated_cvtepu16_epi32
#define _mm512_cvtepu8_epi16 ::chatspace::testing::emulated_cvtepu8_epi16
#define _mm512_cvtepu8_epi32 ::chatspace::testing::emulated_cvtepu8_epi32
#define _mm512_cvtph_ps ::chatspace::testing::emulated_cvtph_ps
#define _mm512_cvtsepi32_epi16 ::chatspace::testing::emulated_cvtsepi32_epi16
#define _mm512_div_ps ::chatspace::testing::emulated_div_ps
#define _mm512_dpwssd_epi32 ::chatspace::testing::emulated_dpwssd_epi32
#define _mm512_extractf32x8_ps ::chatspace::testing::emulated_extractf32x8_ps
#define _mm512_fmadd_ps ::chatspace::testing::emulated_fmadd_ps
#define _mm512_loadu_ps ::chatspace::testing::emulated_loadu_ps
#define _mm512_loadu_si512 ::chatspace::testing::emulated_loadu_si512
#define _mm512_madd_epi16 ::chatspace::testing::emulated_madd_epi16
#define _mm512_mask_blend_ps ::chatspace::testing::emulated_mask_blend_ps
#define _mm512_mask_storeu_ps ::chatspace::testing::emulated_mask_storeu_ps
#define _mm512_maskz_cvtps_epi32 ::chatspace::testing::emulated_maskz_cvtps_epi32
#define _mm512_maskz_loadu_ps ::chatspace::testing::emulated_maskz_loadu_ps
#define _mm512_max_epi32 ::chatspace::testing::emulated_max_epi32
#define _mm512_max_ps ::chatspace::testing::emulated_max_ps
#define _mm512_min_ps ::chatspace::testing::emulated_min_ps
#define _mm512_mul_ps ::chatspace::testing::emulated_mul_ps
#define _mm512_or_ps ::chatspace::testing::emulated_or_ps
#define _mm512_permutexvar_ps ::chatspace::testing::emulated_permutexvar_ps
#define _mm512_reduce_add_epi32 ::chatspace::testing::emulated_reduce_add_epi32
#define _mm512_reduce_max_epi32 ::chatspace::testing::emulated_reduce_max_epi32
#define _mm512_roundscale_ps ::chatspace::testing::emulated_roundscale_ps
#define _mm512_scalef_ps ::chatspace::testing::emulated_scalef_ps
#define _mm512_set1_epi16 ::chatspace::testing::emulated_set1_epi16
#define _mm512_set1_epi32 ::chatspace::testing::emulated_set1_epi32
#define _mm512_set1_pd ::chatspace::testing::emulated_set1_pd
#define _mm512_set1_ps ::chatspace::testing::emulated_set1_ps
#define _mm512_setr_epi32 ::chatspace::testing::emulated_setr_epi32
#define _mm512_setr_ps ::chatspace::testing::emulated_setr_ps
#define _mm512_setzero_ps ::chatspace::testing::emulated_setzero_ps
#define _mm512_setzero_si512 ::chatspace::testing::emulated_setzero_si512
#define _mm512_shuffle_ps ::chatspace::testing::emulated_shuffle_ps
#define _mm512_slli_epi32 ::chatspace::testing::emulated_slli_epi32
#define _mm512_srli_epi16 ::chatspace::testing::emulated_srli_epi16
#define _mm512_srli_epi32 ::chatspace::testing::emulated_srli_epi32
#define _mm512_storeu_ps ::chatspace::testing::emulated_storeu_ps
#define _mm512_sub_ps ::chatspace::testing::emulated_sub_ps
#define _mm512_shuffle_f32x4 ::chatspace::testing::emulated_quarters
#define _mm512_shuffle_i64x2 ::chatspace::testing::emulated_quarters
#define _mm256_maskz_loadu_epi16 ::chatspace::testing::emulated_256_maskz_loadu_epi16
// The one use there keeps a product from being contracted with a sum; here nothing is.
#define __asm__(...) static_cast<void>(0)
