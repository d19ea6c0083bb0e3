// SPDX-License-Identifier: Apache-2.0
// Element types of weights and caches, and the scalar conversions every kernel agrees on.
// No torch headers: the operators translate at::ScalarType to ElementType.
#pragma once

#include <cstdint>
#include <cstring>

namespace chatspace {

// From kQ8_0 on for matrices alone: 32 weights along a row share a float16 scale (and kQ4_1 a float16
// minimum).
//
// kQ8_0, kQ4_0, kQ4_1 are GGUF's blocks. Kernels decode them to the very float32 values that dequantising
// gives, so a product with a block matrix equals the product with its dequantised copy, bit for bit.
//
// The planes are the same numbers in as many bytes, a row's scales first, then its minima, then its levels
// (of four bits: 16 bytes a block, low halves weights 0 .. 15, high halves 16 .. 31, as in GGUF), so that the
// scales of many blocks are one load. Products with them take the activations in int16 (int16_rows.h).
enum class ElementType : int32_t {
  kFloat32 = 0,
  kBFloat16 = 1,
  kFloat16 = 2,
  kQ8_0 = 3,
  kQ4_0 = 4,
  kQ4_1 = 5,
  kQ8_0Planes = 6,
  kQ4_0Planes = 7,
  kQ4_1Planes = 8
};

constexpr int64_t kQuantBlock = 32;

constexpr bool is_plane_type(ElementType type) { return type >= ElementType::kQ8_0Planes; }

constexpr bool is_block_type(ElementType type) { return type >= ElementType::kQ8_0 && !is_plane_type(type); }

// The block type with the numbers of a plane type, and the other way round.
constexpr ElementType blocks_of(ElementType planes) {
  return static_cast<ElementType>(static_cast<int32_t>(planes) - 3);
}
constexpr ElementType planes_of(ElementType blocks) {
  return static_cast<ElementType>(static_cast<int32_t>(blocks) + 3);
}

// Bytes of one element of the float types.
constexpr int64_t element_bytes(ElementType type) { return type == ElementType::kFloat32 ? 4 : 2; }

// Bytes of one block of the block types, and of a block's share of the planes.
constexpr int64_t block_bytes(ElementType type) {
  const ElementType blocks = is_plane_type(type) ? blocks_of(type) : type;
  return blocks == ElementType::kQ8_0 ? 34 : blocks == ElementType::kQ4_0 ? 18 : 20;
}

// Bytes of `count` elements of a row; whole blocks for block and plane types.
constexpr int64_t row_bytes(ElementType type, int64_t count) {
  return type >= ElementType::kQ8_0 ? count / kQuantBlock * block_bytes(type) : count * element_bytes(type);
}

// static: each translation unit keeps its own copy, so a file built with AVX-512 never lends its code
// to one that must run without it.
static inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

static inline float bfloat16_to_float(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

// Round to nearest even; NaN stays NaN.
static inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float float16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
  return bits_to_float(sign | float_to_bits(magnitude));
}

// Round to nearest even, overflow to infinity.
static inline uint16_t float_to_float16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Adding 0.5 aligns the value so that its last kept bit is worth 2^-24; the adder rounds.
    const float aligned = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

static inline float element_to_float(const void* data, ElementType type, int64_t index) {
  if (type == ElementType::kFloat32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return type == ElementType::kBFloat16 ? bfloat16_to_float(bits) : float16_to_float(bits);
}

static inline void float_to_element(float value, void* data, ElementType type, int64_t index) {
  if (type == ElementType::kFloat32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<uint16_t*>(data)[index] =
        type == ElementType::kBFloat16 ? float_to_bfloat16(value) : float_to_float16(value);
  }
}

}  // namespace chatspace
