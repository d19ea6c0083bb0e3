// SPDX-License-Identifier: Apache-2.0
// The AVX-512 kernels' own source on intrinsics in plain C++ against the AVX2 kernels, on a processor that may
// lack AVX-512: a wrong lane, shuffle or mask shows as a wrong number, and so does a read behind a row.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "tests/check.h"

namespace chatspace::testing {

const CpuKernels* emulated_avx512_kernels();

namespace {

// Rows of weights of any type with scales of a sensible size.
std::vector<uint8_t> random_weight(const CpuKernels& kernels, ElementType type, int64_t n, int64_t k,
                                   std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<uint8_t> bytes(static_cast<size_t>(n * row_bytes(type, k)));
  if (!is_block_type(type)) {
    std::vector<float> values(static_cast<size_t>(n * k));
    for (float& v : values) v = normal(random);
    if (type == ElementType::kFloat32) std::memcpy(bytes.data(), values.data(), bytes.size());
    else kernels.from_float(values.data(), type, n * k, bytes.data());
    return bytes;
  }
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
  for (int64_t i = 0; i < n * k / kQuantBlock; ++i) {
    const auto scale = static_cast<uint16_t>(0x2c00 + (random() & 0xff));
    std::memcpy(&bytes[static_cast<size_t>(i * block_bytes(type))], &scale, 2);
    if (type == ElementType::kQ4_1) std::memcpy(&bytes[static_cast<size_t>(i * block_bytes(type) + 2)], &scale, 2);
  }
  return bytes;
}

}  // namespace

TEST(emulated_avx512_products_and_exp_equal_those_of_avx2_but_for_rounding) {
  const CpuKernels* avx2 = cpu_kernels_for(Isa::kAvx2);
  const CpuKernels* emulated = avx2 != nullptr ? emulated_avx512_kernels() : nullptr;
  if (emulated == nullptr) {
    std::printf("  skipped: no AVX2\n");
    return;
  }
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  double worst = 0.0;
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16, ElementType::kFloat16,
                                 ElementType::kQ8_0, ElementType::kQ4_0, ElementType::kQ4_1}) {
    for (const int64_t k : {1, 7, 32, 48, 96, 100, 576, 1536}) {
      if (is_block_type(type) && k % kQuantBlock != 0) continue;
      for (const int64_t n : {1, 5, 24, 61}) {
        for (const int64_t rows : {1, 3, 4, 5, 17, 70}) {
          std::vector<float> x(static_cast<size_t>(rows * k));
          for (float& v : x) v = normal(random);
          const std::vector<uint8_t> weight = random_weight(*avx2, type, n, k, random);
          std::vector<float> want(static_cast<size_t>(rows * n)), got(want.size());
          LinearBlock block{};
          block.x = x.data();
          block.x_stride = k;
          block.rows = rows;
          block.k = k;
          block.weight = weight.data();
          block.type = type;
          block.n = n;
          block.out_stride = n;
          block.out = want.data();
          avx2->linear(block);
          block.out = got.data();
          emulated->linear(block);
          // Relative to the sum of magnitudes: a single element may cancel to nothing.
          std::vector<float> row(static_cast<size_t>(k));
          for (int64_t i = 0; i < n; ++i) {
            avx2->to_float(weight.data() + i * row_bytes(type, k), type, k, row.data());
            for (int64_t t = 0; t < rows; ++t) {
              double size = 1e-30;
              for (int64_t j = 0; j < k; ++j) {
                size += std::fabs(static_cast<double>(row[static_cast<size_t>(j)]) * x[static_cast<size_t>(t * k + j)]);
              }
              const auto at = static_cast<size_t>(t * n + i);
              worst = std::max(worst, std::fabs(static_cast<double>(want[at]) - got[at]) / size);
            }
          }
        }
      }
    }
  }
  std::printf("  products: worst deviation %.2e of the sum of magnitudes\n", worst);
  CHECK_THAT(worst <= 1e-6);
  std::vector<float> x(100003), want(x.size()), got(x.size());
  for (float& v : x) v = normal(random) * 30.0f;
  avx2->exp(x.data(), static_cast<int64_t>(x.size()), want.data());
  emulated->exp(x.data(), static_cast<int64_t>(x.size()), got.data());
  CHECK_THAT(std::memcmp(want.data(), got.data(), x.size() * sizeof(float)) == 0);
}

}  // namespace chatspace::testing
#endif
