// SPDX-License-Identifier: Apache-2.0
// Dequantisation against the `gguf` Python package: hashes of the reference's float32 bits for 2048
// elements of each type, made from the same pseudo-random bytes.
#include "kernels/dequant.h"

#include <cstring>

#include "tests/check.h"

namespace chatspace::testing {
namespace {

struct Golden {
  const char* type;
  uint64_t hash;  // FNV-1a of the floats' bytes
};

const Golden kGolden[] = {
    {"F32", 0xd0a3285182d73868ull},
    {"F16", 0xbc2a2f693d234c07ull},
    {"BF16", 0x06e7b152c7b02595ull},
    {"Q8_0", 0x1c43cdea451d58aaull},
    {"Q4_0", 0x6f6a5861d9f40a9cull},
    {"Q4_1", 0x8d0ecb11861b5ae5ull},
    {"Q5_0", 0xd258c178b0a32e90ull},
    {"Q5_1", 0x9c96ec293643117cull},
    {"Q2_K", 0xd0aa31013ea6f1e1ull},
    {"Q3_K", 0x205936a2bc882546ull},
    {"Q4_K", 0x69a18668208981ceull},
    {"Q5_K", 0xe6c5fa9a015753a9ull},
    {"Q6_K", 0x57730999ba147775ull},
    {"IQ4_NL", 0x4f5cfbf985dc2451ull},
    {"IQ4_XS", 0x60e94507166faefbull},
    {"MXFP4", 0x6a22f4f141fe1494ull},
};

std::vector<uint8_t> test_bytes(const std::string& type, size_t bytes, size_t block) {
  std::vector<uint8_t> raw(bytes);
  uint32_t state = 12345;
  for (uint8_t& byte : raw) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  // Scales that are infinite or not a number are kept out: NaN payloads are nobody's contract.
  if (type == "F32" || type == "F16" || type == "BF16") {
    for (uint8_t& byte : raw) byte &= 0xbb;
    return raw;
  }
  std::vector<size_t> scales = {0};
  if (type == "Q2_K") scales = {80, 82};
  if (type == "Q3_K") scales = {108};
  if (type == "Q6_K") scales = {208};
  if (type == "Q4_1" || type == "Q5_1" || type == "Q4_K" || type == "Q5_K") scales = {0, 2};
  for (size_t start = 0; start < bytes; start += block) {
    if (type == "MXFP4") {
      raw[start] &= 0x7f;
    } else {
      for (const size_t scale : scales) raw[start + scale + 1] &= 0xbb;
    }
  }
  return raw;
}

}  // namespace

TEST(dequantised_bits_equal_the_reference) {
  constexpr int64_t kElements = 2048;
  for (const Golden& golden : kGolden) {
    const size_t bytes = type_bytes(golden.type, kElements);
    const size_t elements = type_bytes(golden.type, 1) != 0 ? 1 : type_bytes(golden.type, 32) != 0 ? 32 : 256;
    const size_t block = type_bytes(golden.type, static_cast<int64_t>(elements));
    // One byte off any alignment.
    std::vector<uint8_t> raw = test_bytes(golden.type, bytes, block);
    raw.insert(raw.begin(), 0);
    std::vector<float> out(kElements);
    CHECK_THAT(dequantize(golden.type, raw.data() + 1, kElements, out.data()));
    uint64_t hash = 1469598103934665603u;
    const auto* data = reinterpret_cast<const unsigned char*>(out.data());
    for (size_t i = 0; i < out.size() * sizeof(float); ++i) hash = (hash ^ data[i]) * 1099511628211u;
    if (hash != golden.hash) fail(__FILE__, __LINE__, std::string(golden.type) + " differs from the reference");
  }
}

TEST(dequantise_refuses_unknown_types_and_ragged_counts) {
  float out[256];
  const uint8_t in[512] = {};
  CHECK_THAT(!dequantize("Q9_9", in, 32, out));
  CHECK_THAT(!dequantize("Q8_0", in, 33, out));
  CHECK_THAT(!dequantize("Q4_K", in, 32, out));
  CHECK_THAT(!dequantize("F32", in, -1, out));
  CHECK_THAT(dequantize("F32", in, 0, out));
  CHECK_THAT(type_bytes("Q9_9", 32) == 0 && type_bytes("Q8_0", 31) == 0 && type_bytes("F32", -4) == 0);
  CHECK_THAT(type_bytes("F32", INT64_MAX) == 0);
  CHECK_THAT(type_bytes("Q4_1", 64) == 40 && type_bytes("Q6_K", 512) == 420);
}

}  // namespace chatspace::testing
