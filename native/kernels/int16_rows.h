// SPDX-License-Identifier: Apache-2.0
// Rows of activations in int16, the partner of weights in planes (element.h).
//
// Each block of 32 is q = round(x * 32767 / largest), a float32 scale (largest / 32767) and the float32 sum
// (scale * sum of q) that minima and zero points multiply. The error of a value is at most 2^-16 of the
// largest of its block, about a hundredth of what eight-bit weights cost: what is left is weight-only
// quantisation in effect. A row is quantised from itself alone, so it has the same bits in any batch.
//
// 32 products of a level (|.| <= 128) and q (|.| <= 32767) stay below 2^27: a block's sum is exact in int32.
// A block without a number that counts (largest < 2^-100) is zero. A NaN or an infinity makes its block's
// scale and sum NaN, so that it is not lost.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace chatspace {

static constexpr float kInt16Largest = 32767.0f;
static constexpr float kInt16Least = 0x1p-100f;

// Scales and sums of a row, padded with zeros so that a vector may be loaded from any whole one on.
static constexpr int64_t int16_padded_blocks(int64_t k) { return (k / kQuantBlock + 15) / 16 * 16; }

// Bytes of a row: k int16, padded scales, padded sums; a multiple of 64.
static constexpr int64_t int16_row_bytes(int64_t k) { return k * 2 + int16_padded_blocks(k) * 8; }

struct Int16Row {
  const int16_t* q;
  const float* scale;
  const float* sum;
};

static inline Int16Row int16_row(const void* row, int64_t k) {
  const auto* q = static_cast<const int16_t*>(row);
  const auto* scale = reinterpret_cast<const float*>(q + k);
  return {q, scale, scale + int16_padded_blocks(k)};
}

struct Int16Scale {
  float scale;
  float inverse;  // 0: every q of the block is 0
};

// From the largest magnitude of a block, NaN above infinity above all numbers.
static inline Int16Scale int16_scale(float largest) {
  if (!(largest < __builtin_inff())) return {__builtin_nanf(""), 0.0f};
  if (largest < kInt16Least) return {0.0f, 0.0f};
  return {largest / kInt16Largest, kInt16Largest / largest};
}

}  // namespace chatspace
