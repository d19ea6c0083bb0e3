// SPDX-License-Identifier: Apache-2.0
// Integer products: the quantised activations, and products against int64 sums in float64, on every
// instruction set; a row alone against the row in any batch, any tile, any number of threads.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "kernels/int16_rows.h"
#include "kernels/linear_cpu.h"
#include "kernels/quantize.h"
#include "tests/check.h"

namespace chatspace::testing {

#if defined(__x86_64__)
const CpuKernels* emulated_avx512_kernels();
#endif

namespace {

// Every instruction set of this machine, and the AVX-512 kernels' source on emulated intrinsics.
void for_each_table(const std::function<void(const CpuKernels&)>& body) {
  for_each_isa(body);
#if defined(__x86_64__)
  const CpuKernels* emulated = cpu_kernels_for(Isa::kAvx2) != nullptr ? emulated_avx512_kernels() : nullptr;
  if (emulated == nullptr) return;
  const CpuKernels& chosen = cpu_kernels();
  use_cpu_kernels(*emulated);
  body(*emulated);
  use_cpu_kernels(chosen);
#endif
}

constexpr ElementType kBlockTypes[] = {ElementType::kQ8_0, ElementType::kQ4_0, ElementType::kQ4_1};

std::vector<float> random_floats(int64_t count, std::mt19937& random, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& x : out) x = normal(random);
  return out;
}

// n rows of k weights, in planes, nothing behind the last byte.
struct Planes {
  ElementType type;
  int64_t n, k;
  std::vector<uint8_t> bytes;
  const uint8_t* row(int64_t i) const { return bytes.data() + i * row_bytes(type, k); }
  LinearPart part(float* out, const float* bias = nullptr) const { return {bytes.data(), type, n, bias, out}; }
};

Planes random_planes(ElementType blocks, int64_t n, int64_t k, std::mt19937& random) {
  Planes planes{planes_of(blocks), n, k, std::vector<uint8_t>(static_cast<size_t>(n * row_bytes(blocks, k)))};
  std::vector<uint8_t> row(static_cast<size_t>(row_bytes(blocks, k)));
  for (int64_t i = 0; i < n; ++i) {
    quantize_row(blocks, random_floats(k, random, 0.05f).data(), k, row.data());
    planes_row(blocks, row.data(), k, planes.bytes.data() + i * row_bytes(blocks, k));
  }
  return planes;
}

struct Exact {
  double value;
  double magnitude;  // sum of |terms|, the measure of what rounding may do
};

// One element from the quantised activations, with integer block sums in int64 and the rest in float64.
Exact exact_product(const Planes& w, int64_t n, const Int16Row& x) {
  const int64_t blocks = w.k / kQuantBlock;
  const bool eight = w.type == ElementType::kQ8_0Planes, affine = w.type == ElementType::kQ4_1Planes;
  const uint8_t* row = w.row(n);
  const uint8_t* levels = row + blocks * (affine ? 4 : 2);
  const auto half = [&](int64_t index) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * index, 2);
    return static_cast<double>(float16_to_float(bits));
  };
  Exact out{0, 0};
  for (int64_t b = 0; b < blocks; ++b) {
    int64_t product = 0, size = 0, sum = 0;
    for (int i = 0; i < 32; ++i) {
      const uint8_t* at = levels + b * (eight ? 32 : 16);
      const int level = eight ? static_cast<int8_t>(at[i]) : i < 16 ? at[i] & 15 : at[i - 16] >> 4;
      product += int64_t{level} * x.q[b * 32 + i];
      size += std::abs(int64_t{level} * x.q[b * 32 + i]);
      sum += x.q[b * 32 + i];
    }
    const double scale = x.scale[b];
    const double first = half(b) * scale * static_cast<double>(product);
    const double least = eight ? 0.0 : affine ? half(blocks + b) : -8.0 * half(b);
    const double second = least * scale * static_cast<double>(sum);
    out.value += first + second;
    // A lane turns its share of the integer sum into float32: what the shares cancel counts too.
    out.magnitude += std::abs(half(b) * scale) * static_cast<double>(size) + std::abs(second);
  }
  return out;
}

std::vector<char> quantized(const float* x, int64_t rows, int64_t k) {
  std::vector<char> out(static_cast<size_t>(rows * int16_row_bytes(k)));
  for (int64_t row = 0; row < rows; ++row) {
    cpu_kernels().quantize_int16(x + row * k, k, out.data() + row * int16_row_bytes(k));
  }
  return out;
}

std::vector<float> product(const std::vector<float>& x, int64_t rows, const Planes& w, const float* bias = nullptr) {
  std::vector<float> out(static_cast<size_t>(rows * w.n));
  const LinearPart part = w.part(out.data(), bias);
  linear_parts(x.data(), w.k, rows, w.k, &part, 1, w.n);
  return out;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST(int16_rows_are_within_half_a_step_and_the_same_on_every_instruction_set) {
  std::mt19937 random(31);
  const int64_t k = 17 * 32;
  std::vector<float> x = random_floats(k, random, 3.0f);
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = 0.0f;                          // nothing
  for (int i = 32; i < 64; ++i) x[static_cast<size_t>(i)] *= 1e30f;                       // huge
  for (int i = 64; i < 96; ++i) x[static_cast<size_t>(i)] *= 1e-20f;                      // tiny
  for (int i = 96; i < 128; ++i) x[static_cast<size_t>(i)] = i == 100 ? -65000.0f : 1.0f; // an outlier
  for (int i = 128; i < 160; ++i) x[static_cast<size_t>(i)] = 1e-40f;                     // below what counts
  x[170] = std::numeric_limits<float>::infinity();
  x[200] = std::numeric_limits<float>::quiet_NaN();
  std::vector<char> first;
  double worst = 0.0;
  for_each_table([&](const CpuKernels& kernels) {
    const std::vector<char> row = quantized(x.data(), 1, k);
    const Int16Row r = int16_row(row.data(), k);
    for (int64_t b = 0; b < 17; ++b) {
      if (b == 5 || b == 6) {
        CHECK_THAT(std::isnan(r.scale[b]) && std::isnan(r.sum[b]));
        continue;
      }
      double largest = 0.0;
      int64_t sum = 0;
      for (int64_t i = b * 32; i < b * 32 + 32; ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(x[static_cast<size_t>(i)])));
        sum += r.q[i];
      }
      CHECK_THAT(static_cast<double>(r.sum[b]) == static_cast<double>(r.scale[b] * static_cast<float>(sum)));
      if (largest < static_cast<double>(kInt16Least)) CHECK_THAT(r.scale[b] == 0.0f && sum == 0);
      if (largest < static_cast<double>(kInt16Least)) continue;
      for (int64_t i = b * 32; i < b * 32 + 32; ++i) {
        const double got = static_cast<double>(r.scale[b]) * r.q[i];
        worst = std::max(worst, std::abs(got - static_cast<double>(x[static_cast<size_t>(i)])) / largest);
      }
    }
    for (int64_t b = 17; b < int16_padded_blocks(k); ++b) CHECK_THAT(r.scale[b] == 0.0f && r.sum[b] == 0.0f);
    // NaN may differ in its payload: the levels and the numbers must not.
    if (first.empty()) first = row;
    const Int16Row f = int16_row(first.data(), k);
    CHECK_THAT(std::memcmp(r.q, f.q, static_cast<size_t>(k) * 2) == 0);
    for (int64_t b = 0; b < 17; ++b) CHECK_THAT(b == 5 || b == 6 || (r.scale[b] == f.scale[b] && r.sum[b] == f.sum[b]));
    std::printf("  %s: worst error %.3e of a block's largest (2^-16 = 1.526e-05)\n", kernels.name, worst);
  });
  CHECK_THAT(worst <= 0x1p-16 * 1.001);
}

TEST(int16_products_match_integer_sums_on_any_shape) {
  for_each_table([](const CpuKernels& kernels) {
    std::mt19937 random(32);
    double worst = 0.0;
    for (const ElementType type : kBlockTypes) {
      for (const int64_t k : {32, 64, 96, 288, 544, 576, 1056}) {
        for (const int64_t n : {1, 3, 4, 7, 26}) {
          const Planes w = random_planes(type, n, k, random);
          for (const int64_t rows : {1, 2, 3, 4, 5, 7, 9}) {
            const std::vector<float> x = random_floats(rows * k, random), bias = random_floats(n, random);
            const std::vector<char> q = quantized(x.data(), rows, k);
            const std::vector<float> got = product(x, rows, w, n % 2 == 0 ? nullptr : bias.data());
            for (int64_t t = 0; t < rows; ++t) {
              const Int16Row row = int16_row(q.data() + t * int16_row_bytes(k), k);
              for (int64_t i = 0; i < n; ++i) {
                Exact want = exact_product(w, i, row);
                if (n % 2 != 0) {
                  want.value += static_cast<double>(bias[static_cast<size_t>(i)]);
                  want.magnitude += std::abs(static_cast<double>(bias[static_cast<size_t>(i)]));
                }
                const double off = std::abs(static_cast<double>(got[static_cast<size_t>(t * n + i)]) - want.value);
                worst = std::max(worst, off / (want.magnitude + 1e-30));
              }
            }
          }
        }
      }
    }
    std::printf("  %s: worst deviation %.2e of the sum of magnitudes\n", kernels.name, worst);
    CHECK_THAT(worst <= 1e-6);
  });
}

TEST(int16_row_alone_equals_row_in_any_batch) {
  ThreadPool two(2), three(3);
  for_each_table([&](const CpuKernels& kernels) {
    std::mt19937 random(33);
    for (const ElementType type : kBlockTypes) {
      for (const auto& [k, n] : {std::pair<int64_t, int64_t>{96, 199}, {576, 61}}) {
        const Planes w = random_planes(type, n, k, random);
        const int64_t rows = 13;
        const std::vector<float> x = random_floats(rows * k, random);
        std::vector<float> want;
        for (int64_t t = 0; t < rows; ++t) {
          const std::vector<float> one = product({x.begin() + t * k, x.begin() + (t + 1) * k}, 1, w);
          want.insert(want.end(), one.begin(), one.end());
        }
        for (ThreadPool* pool : {&two, &three}) {
          PoolScope scope(pool);
          for (int64_t t = 1; t <= rows; ++t) {
            const std::vector<float> tail(x.begin() + (rows - t) * k, x.end());
            CHECK_THAT(same(product(tail, t, w), {want.begin() + (rows - t) * n, want.end()}));
          }
          std::vector<float> many, wants;
          for (int i = 0; i < 8; ++i) {
            many.insert(many.end(), x.begin(), x.end());
            wants.insert(wants.end(), want.begin(), want.end());
          }
          CHECK_THAT(same(product(many, 8 * rows, w), wants));
        }
      }
    }
    std::printf("  %s\n", kernels.name);
  });
}

TEST(int16_sums_hold_the_largest_levels_and_activations) {
  for_each_table([](const CpuKernels& kernels) {
    for (const ElementType type : kBlockTypes) {
      for (const int sign : {1, -1}) {
        const int64_t k = 96;
        Planes w{planes_of(type), 5, k, std::vector<uint8_t>(static_cast<size_t>(5 * row_bytes(type, k)), 0)};
        std::vector<uint8_t> blocks(static_cast<size_t>(row_bytes(type, k)));
        const uint16_t one = float_to_float16(1.0f), minimum = float_to_float16(-3.0f);
        for (int64_t b = 0; b < k / 32; ++b) {
          uint8_t* block = blocks.data() + b * block_bytes(type);
          // -128 does not come out of quantising but may stand in a file.
          std::memset(block, type == ElementType::kQ8_0 ? 0x80 : 0xff, static_cast<size_t>(block_bytes(type)));
          std::memcpy(block, &one, 2);
          if (type == ElementType::kQ4_1) std::memcpy(block + 2, &minimum, 2);
        }
        for (int64_t i = 0; i < 5; ++i) planes_row(type, blocks.data(), k, w.bytes.data() + i * row_bytes(type, k));
        const std::vector<float> x(static_cast<size_t>(k), 32767.0f * static_cast<float>(sign));
        const double level = type == ElementType::kQ8_0 ? -128.0 : type == ElementType::kQ4_0 ? 7.0 : 12.0;
        for (const float y : product(x, 1, w)) {
          const double want = level * 32767.0 * sign * static_cast<double>(k);
          CHECK_THAT(std::abs(static_cast<double>(y) - want) <= 2e-6 * std::abs(want));
        }
      }
    }
    std::printf("  %s\n", kernels.name);
  });
}

TEST(int16_products_with_nothing_are_zero_and_with_nan_are_nan) {
  for_each_table([](const CpuKernels&) {
    std::mt19937 random(34);
    for (const ElementType type : kBlockTypes) {
      const Planes w = random_planes(type, 9, 576, random);
      std::vector<float> x(576, 0.0f);
      for (const float y : product(x, 1, w)) CHECK_THAT(y == 0.0f);
      x[575] = std::numeric_limits<float>::infinity();
      for (const float y : product(x, 1, w)) CHECK_THAT(!std::isfinite(y));
      x[575] = std::numeric_limits<float>::quiet_NaN();
      for (const float y : product(x, 1, w)) CHECK_THAT(std::isnan(y));
      // Weights of zero: a block whose scale is zero.
      Planes zero{planes_of(type), 9, 576, std::vector<uint8_t>(w.bytes.size(), 0)};
      for (const float y : product(random_floats(576, random), 1, zero)) CHECK_THAT(y == 0.0f);
    }
  });
}

TEST(planes_hold_the_values_of_their_blocks) {
  for_each_table([](const CpuKernels& kernels) {
    std::mt19937 random(35);
    for (const ElementType type : kBlockTypes) {
      const int64_t k = 288;
      std::vector<uint8_t> blocks(static_cast<size_t>(row_bytes(type, k))), planes(blocks.size());
      quantize_row(type, random_floats(k, random).data(), k, blocks.data());
      planes_row(type, blocks.data(), k, planes.data());
      std::vector<float> a(static_cast<size_t>(k)), b(static_cast<size_t>(k));
      kernels.to_float(blocks.data(), type, k, a.data());
      kernels.to_float(planes.data(), planes_of(type), k, b.data());
      CHECK_THAT(same(a, b));
    }
  });
}

}  // namespace chatspace::testing
