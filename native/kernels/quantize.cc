// SPDX-License-Identifier: Apache-2.0
#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace chatspace {
namespace {

constexpr int kBlock = static_cast<int>(kQuantBlock);

float as_half(float value, uint8_t* out) {
  const uint16_t half = float_to_float16(value);
  std::memcpy(out, &half, 2);
  return float16_to_float(half);
}

int level(float x, float scale, float minimum, int low, int high) {
  if (scale == 0.0f) return std::clamp(0, low, high);
  return std::clamp(static_cast<int>(std::lrintf((x - minimum) / scale)), low, high);
}

void block_q8_0(const float* in, uint8_t* out) {
  float largest = 0.0f;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(in[i]));
  const float scale = as_half(largest / 127.0f, out);
  for (int i = 0; i < kBlock; ++i) {
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(level(in[i], scale, 0.0f, -127, 127)));
  }
}

struct Fit {
  float scale;
  float minimum;
  double error;
};

double error_of(const float* in, float scale, float minimum, int low, int high) {
  double sum = 0;
  for (int i = 0; i < kBlock; ++i) {
    const float d = in[i] - (scale * static_cast<float>(level(in[i], scale, minimum, low, high)) + minimum);
    sum += static_cast<double>(d) * d;
  }
  return sum;
}

// Best scale (and minimum, when `affine`) for the levels that the present ones assign.
void refit(const float* in, float& scale, float& minimum, int low, int high, bool affine) {
  double n = 0, nn = 0, x = 0, nx = 0;
  for (int i = 0; i < kBlock; ++i) {
    const double q = level(in[i], scale, minimum, low, high);
    n += q;
    nn += q * q;
    x += in[i];
    nx += q * in[i];
  }
  if (!affine) {
    if (nn > 0) scale = static_cast<float>(nx / nn);
    return;
  }
  const double determinant = kBlock * nn - n * n;
  if (determinant <= 0) return;
  scale = static_cast<float>((kBlock * nx - n * x) / determinant);
  minimum = static_cast<float>((x - scale * n) / kBlock);
}

Fit best_fit(const float* in, float scale, float minimum, int low, int high, bool affine) {
  Fit best{scale, minimum, error_of(in, scale, minimum, low, high)};
  for (const float shrink : {1.0f, 0.93f, 0.86f}) {
    float s = scale * shrink;
    float m = affine ? minimum + 0.5f * (1.0f - shrink) * scale * static_cast<float>(high - low) : minimum;
    for (int round = 0; round < 3; ++round) {
      const double error = error_of(in, s, m, low, high);
      if (error < best.error) best = {s, m, error};
      refit(in, s, m, low, high, affine);
    }
    const double error = error_of(in, s, m, low, high);
    if (error < best.error) best = {s, m, error};
  }
  return best;
}

void block_q4(const float* in, uint8_t* out, bool affine) {
  const int low = affine ? 0 : -8;
  const int high = affine ? 15 : 7;
  const auto [least, most] = std::minmax_element(in, in + kBlock);
  Fit fit{};
  if (affine) {
    fit = best_fit(in, (*most - *least) / 15.0f, *least, low, high, true);
  } else {
    const float largest = std::fabs(*least) > std::fabs(*most) ? *least : *most;
    fit = best_fit(in, largest / -8.0f, 0.0f, low, high, false);
  }
  const float scale = as_half(fit.scale, out);
  const float minimum = affine ? as_half(fit.minimum, out + 2) : 0.0f;
  uint8_t* nibbles = out + (affine ? 4 : 2);
  for (int i = 0; i < kBlock / 2; ++i) {
    const int first = level(in[i], scale, minimum, low, high) - low;
    const int second = level(in[i + kBlock / 2], scale, minimum, low, high) - low;
    nibbles[i] = static_cast<uint8_t>(first | second << 4);
  }
}

}  // namespace

void quantize_row(ElementType type, const float* in, int64_t count, void* out) {
  auto* bytes = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < count; i += kQuantBlock, bytes += block_bytes(type)) {
    if (type == ElementType::kQ8_0) {
      block_q8_0(in + i, bytes);
    } else {
      block_q4(in + i, bytes, type == ElementType::kQ4_1);
    }
  }
}

void planes_row(ElementType type, const void* in, int64_t count, void* out) {
  const int64_t blocks = count / kQuantBlock;
  const int64_t header = type == ElementType::kQ4_1 ? 4 : 2;
  const int64_t levels = block_bytes(type) - header;
  const auto* from = static_cast<const uint8_t*>(in);
  auto* to = static_cast<uint8_t*>(out);
  for (int64_t b = 0; b < blocks; ++b, from += block_bytes(type)) {
    std::memcpy(to + 2 * b, from, 2);
    if (header == 4) std::memcpy(to + 2 * (blocks + b), from + 2, 2);
    std::memcpy(to + header * blocks + levels * b, from + header, static_cast<size_t>(levels));
  }
}

}  // namespace chatspace
