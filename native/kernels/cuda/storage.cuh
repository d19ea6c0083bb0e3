// SPDX-License-Identifier: Apache-2.0
// How numbers lie in memory and become float32. All arithmetic of the kernels is float32; these are
// the only places where a 16-bit value is widened or rounded (to nearest even). Compiles with a host
// compiler too, where native/tests/cuda_math_test.cc runs the kernels' bodies.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cuda/args.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define CHATSPACE_FN __device__ __forceinline__
#define CHATSPACE_UNROLL _Pragma("unroll")
#else
#define CHATSPACE_FN inline
#define CHATSPACE_UNROLL
#endif

namespace chatspace::cuda {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

CHATSPACE_FN float to_float(float value) { return value; }

CHATSPACE_FN float to_float(BFloat16 value) {
  const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
#if defined(__CUDACC__)
  return __uint_as_float(wide);
#else
  float out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
#endif
}

#if defined(__CUDACC__)
CHATSPACE_FN float to_float(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }
#else
inline float to_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 31u;
  const uint32_t mantissa = value.bits & 1023u;
  if (exponent == 0) {
    const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign != 0 ? -small : small;
  }
  const uint32_t wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | (mantissa << 13);
  float out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}
#endif

template <class T>
CHATSPACE_FN T from_float(float value);

template <>
CHATSPACE_FN float from_float<float>(float value) {
  return value;
}

template <>
CHATSPACE_FN BFloat16 from_float<BFloat16>(float value) {
#if defined(__CUDACC__)
  return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  if ((wide & 0x7fffffffu) > 0x7f800000u) return BFloat16{static_cast<uint16_t>((wide >> 16) | 0x40u)};
  return BFloat16{static_cast<uint16_t>((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16)};
#endif
}

template <>
CHATSPACE_FN Float16 from_float<Float16>(float value) {
#if defined(__CUDACC__)
  return Float16{__half_as_ushort(__float2half_rn(value))};
#else
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  const uint16_t sign = static_cast<uint16_t>((wide >> 16) & 0x8000u);
  const uint32_t magnitude = wide & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Float16{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return Float16{static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    float absolute;
    std::memcpy(&absolute, &magnitude, sizeof absolute);
    const float shifted = absolute + 0.5f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return Float16{static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return Float16{static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
#endif
}

// Reads or writes element `index` of memory whose dtype is known only at run time. The switch is the
// same for all threads of a launch, so it costs no divergence.
CHATSPACE_FN float load(const ConstArray& array, int64_t index) {
  switch (array.dtype) {
    case Dtype::kBFloat16:
      return to_float(static_cast<const BFloat16*>(array.data)[index]);
    case Dtype::kFloat16:
      return to_float(static_cast<const Float16*>(array.data)[index]);
    default:
      return static_cast<const float*>(array.data)[index];
  }
}

CHATSPACE_FN void store(const Array& array, int64_t index, float value) {
  switch (array.dtype) {
    case Dtype::kBFloat16:
      static_cast<BFloat16*>(array.data)[index] = from_float<BFloat16>(value);
      return;
    case Dtype::kFloat16:
      static_cast<Float16*>(array.data)[index] = from_float<Float16>(value);
      return;
    default:
      static_cast<float*>(array.data)[index] = value;
  }
}

CHATSPACE_FN float load(const Array& array, int64_t index) {
  return load(ConstArray{array.data, array.dtype}, index);
}

}  // namespace chatspace::cuda
