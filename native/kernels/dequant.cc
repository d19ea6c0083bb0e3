// SPDX-License-Identifier: Apache-2.0
#include "kernels/dequant.h"

#include <cstring>

#include "kernels/element.h"

namespace chatspace {
namespace {

// One block of each type: raw bytes in, `kElements` floats out. Every product and sum is rounded to
// float32 on its own, in the order of the reference.

float half_at(const uint8_t* in) {
  uint16_t bits;
  std::memcpy(&bits, in, 2);
  return float16_to_float(bits);
}

uint32_t word_at(const uint8_t* in) {
  uint32_t bits;
  std::memcpy(&bits, in, 4);
  return bits;
}

// 16 bytes of two nibbles: the low ones are elements 0 .. 15, the high ones 16 .. 31.
int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

void q8_0(const uint8_t* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(in[2 + i])) * d;
}

void q4_0(const uint8_t* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(in + 2, i) - 8);
}

void q4_1(const uint8_t* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(in + 4, i)) + m;
}

void q5_0(const uint8_t* in, float* out) {
  const float d = half_at(in);
  const uint32_t high = word_at(in + 2);
  for (int i = 0; i < 32; ++i) {
    const int q = nibble(in + 6, i) | static_cast<int>((high >> i) & 1u) << 4;
    out[i] = d * static_cast<float>(q - 16);
  }
}

void q5_1(const uint8_t* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  const uint32_t high = word_at(in + 4);
  for (int i = 0; i < 32; ++i) {
    const int q = nibble(in + 8, i) | static_cast<int>((high >> i) & 1u) << 4;
    out[i] = d * static_cast<float>(q) + m;
  }
}

// Two bits of element i out of 64 bytes: 128 elements share 32 bytes, 32 elements share a shift.
int two_bits(const uint8_t* qs, int i) { return (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3; }

// scales [16], qs [64], d, dmin.
void q2_k(const uint8_t* in, float* out) {
  const float d = half_at(in + 80), dmin = half_at(in + 82);
  for (int i = 0; i < 256; ++i) {
    const uint8_t scale = in[i / 16];
    const float dl = d * static_cast<float>(scale & 15);
    const float ml = dmin * static_cast<float>(scale >> 4);
    out[i] = dl * static_cast<float>(two_bits(in + 16, i)) - ml;
  }
}

// hmask [32], qs [64], scales [12] of 6 bits, d.
void q3_k(const uint8_t* in, float* out) {
  const float d = half_at(in + 108);
  const uint8_t* scales = in + 96;
  for (int i = 0; i < 256; ++i) {
    const int j = i / 16;
    const int low = (scales[j % 8] >> (j / 8 * 4)) & 15;
    const int high = (scales[8 + j % 4] >> (j / 4 * 2)) & 3;
    const float dl = d * static_cast<float>((low | high << 4) - 32);
    // A cleared bit takes 4 away.
    const int minus = (in[i % 32] >> (i / 32) & 1) != 0 ? 0 : 4;
    out[i] = dl * static_cast<float>(two_bits(in + 32, i) - minus);
  }
}

// The eight 6-bit scales and minima that Q4_K and Q5_K pack into 12 bytes.
void scale_and_min(const uint8_t* packed, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *minimum = packed[4 + j] & 63;
  } else {
    *scale = (packed[4 + j] & 15) | ((packed[j - 4] >> 2) & 48);
    *minimum = (packed[4 + j] >> 4) | ((packed[j] >> 2) & 48);
  }
}

// d, dmin, scales [12], (high bits [32],) qs [128].
void q45_k(const uint8_t* in, const uint8_t* high, const uint8_t* qs, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  for (int j = 0; j < 8; ++j) {
    int scale, minimum;
    scale_and_min(in + 4, j, &scale, &minimum);
    const float dl = d * static_cast<float>(scale);
    const float ml = dmin * static_cast<float>(minimum);
    for (int i = 0; i < 32; ++i) {
      int q = (qs[j / 2 * 32 + i] >> (j % 2 * 4)) & 15;
      if (high != nullptr) q |= ((high[i] >> j) & 1) << 4;
      out[j * 32 + i] = dl * static_cast<float>(q) - ml;
    }
  }
}

void q4_k(const uint8_t* in, float* out) { q45_k(in, nullptr, in + 16, out); }
void q5_k(const uint8_t* in, float* out) { q45_k(in, in + 16, in + 48, out); }

// ql [128], qh [64], scales [16] int8, d.
void q6_k(const uint8_t* in, float* out) {
  const float d = half_at(in + 208);
  for (int i = 0; i < 256; ++i) {
    const float dl = d * static_cast<float>(static_cast<int8_t>(in[192 + i / 16]));
    const int low = (in[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4)) & 15;
    const int q = (low | two_bits(in + 128, i) << 4) - 32;
    out[i] = dl * static_cast<float>(q);
  }
}

constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_nl(const uint8_t* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(kIq4Values[nibble(in + 2, i)]);
}

// d, high scales (16 bits), low scales [4], qs [128].
void iq4_xs(const uint8_t* in, float* out) {
  const float d = half_at(in);
  const uint32_t high = static_cast<uint32_t>(in[2]) | static_cast<uint32_t>(in[3]) << 8;
  for (int j = 0; j < 8; ++j) {
    const int low = (in[4 + j / 2] >> (j % 2 * 4)) & 15;
    const int scale = (low | static_cast<int>((high >> (2 * j)) & 3u) << 4) - 32;
    const float dl = d * static_cast<float>(scale);
    for (int i = 0; i < 32; ++i) out[j * 32 + i] = dl * static_cast<float>(kIq4Values[nibble(in + 8 + j * 16, i)]);
  }
}

// E2M1 values doubled; the scale below is halved.
constexpr int8_t kFp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void mxfp4(const uint8_t* in, float* out) {
  const uint32_t e = in[0];
  const float d = bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(kFp4Values[nibble(in + 1, i)]);
}

void f32(const uint8_t* in, float* out) { std::memcpy(out, in, 4); }
void f16(const uint8_t* in, float* out) { *out = half_at(in); }
void bf16(const uint8_t* in, float* out) {
  uint16_t bits;
  std::memcpy(&bits, in, 2);
  *out = bfloat16_to_float(bits);
}

struct BlockType {
  std::string_view name;
  int64_t elements;
  int64_t bytes;
  void (*decode)(const uint8_t* in, float* out);
};

constexpr BlockType kTypes[] = {
    {"F32", 1, 4, f32},       {"F16", 1, 2, f16},       {"BF16", 1, 2, bf16},     {"Q8_0", 32, 34, q8_0},
    {"Q4_0", 32, 18, q4_0},   {"Q4_1", 32, 20, q4_1},   {"Q5_0", 32, 22, q5_0},   {"Q5_1", 32, 24, q5_1},
    {"Q2_K", 256, 84, q2_k},  {"Q3_K", 256, 110, q3_k}, {"Q4_K", 256, 144, q4_k}, {"Q5_K", 256, 176, q5_k},
    {"Q6_K", 256, 210, q6_k}, {"IQ4_NL", 32, 18, iq4_nl}, {"IQ4_XS", 256, 136, iq4_xs}, {"MXFP4", 32, 17, mxfp4},
};

const BlockType* find_type(std::string_view name, int64_t elements) {
  for (const BlockType& type : kTypes) {
    if (type.name == name) return elements >= 0 && elements % type.elements == 0 ? &type : nullptr;
  }
  return nullptr;
}

}  // namespace

size_t type_bytes(std::string_view type, int64_t elements) {
  const BlockType* found = find_type(type, elements);
  if (found == nullptr || elements / found->elements > INT64_MAX / found->bytes) return 0;
  return static_cast<size_t>(elements / found->elements * found->bytes);
}

bool dequantize(std::string_view type, const void* in, int64_t elements, float* out) {
  const BlockType* found = find_type(type, elements);
  if (found == nullptr) return false;
  const auto* bytes = static_cast<const uint8_t*>(in);
  for (int64_t i = 0; i < elements; i += found->elements, bytes += found->bytes) found->decode(bytes, out + i);
  return true;
}

}  // namespace chatspace
