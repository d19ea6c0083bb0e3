// SPDX-License-Identifier: Apache-2.0
// Block-quantised matrices: the product equals the product with the dequantised copy, bit for bit, and
// quantisation errs by what its levels allow.
#include "kernels/dequant.h"
#include "kernels/linear_cpu.h"
#include "kernels/quantize.h"
#include "kernels/thread_pool.h"
#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

struct BlockType {
  ElementType type;
  const char* name;
  at::ScalarType tag;
  double error;
};

constexpr BlockType kTypes[] = {{ElementType::kQ8_0, "Q8_0", kQ8_0Tag, 0.008},
                                {ElementType::kQ4_0, "Q4_0", kQ4_0Tag, 0.11},
                                {ElementType::kQ4_1, "Q4_1", kQ4_1Tag, 0.09}};

at::Tensor quantized(const BlockType& type, const at::Tensor& weight) {
  const int64_t n = weight.size(0), k = weight.size(1), bytes = row_bytes(type.type, k);
  at::Tensor out = at::empty({n, bytes / static_cast<int64_t>(c10::elementSize(type.tag))}, type.tag);
  for (int64_t row = 0; row < n; ++row) {
    quantize_row(type.type, weight.const_data_ptr<float>() + row * k, k,
                 static_cast<char*>(out.mutable_data_ptr()) + row * bytes);
  }
  return out;
}

}  // namespace

TEST(block_products_equal_dequantised_products_bit_for_bit) {
  at::manual_seed(21);
  for_each_isa([](const CpuKernels& kernels) {
    for (const BlockType& type : kTypes) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{7, 32}, {50, 576}, {33, 1536}}) {
        const at::Tensor weight = at::randn({n, k}) * 0.05;
        const at::Tensor blocks = quantized(type, weight);
        at::Tensor dense = at::empty({n, k});
        CHECK_THAT(dequantize(type.name, blocks.const_data_ptr(), n * k, dense.mutable_data_ptr<float>()));
        for (const int64_t rows : {1, 2, 3, 4, 5, 17}) {
          const at::Tensor x = at::randn({rows, k});
          CHECK_SAME_BITS(cpu_backend().linear(x, blocks, std::nullopt), cpu_backend().linear(x, dense, std::nullopt),
                          std::string(kernels.name) + " " + type.name);
        }
        const at::Tensor ids = at::tensor({n - 1, int64_t{0}}, at::kLong);
        CHECK_SAME_BITS(cpu_backend().embed(ids, blocks), dense.index_select(0, ids), "embedding rows");
        // Root mean square of the error against that of the weights: what the levels allow for a normal
        // distribution, with a little room.
        const double error = ((dense - weight).norm() / weight.norm()).item<double>();
        if (n == 50) std::printf("  %s %s: relative rms error %.4f\n", kernels.name, type.name, error);
        CHECK_THAT(error <= type.error);
      }
    }
  });
}

TEST(quantising_blocks_of_zeros_and_constants_is_exact_or_close) {
  for (const BlockType& type : kTypes) {
    for (const float value : {0.0f, 1.0f, -3.0f}) {
      std::vector<float> in(32, value), out(32);
      std::vector<uint8_t> bytes(static_cast<size_t>(block_bytes(type.type)));
      quantize_row(type.type, in.data(), 32, bytes.data());
      CHECK_THAT(dequantize(type.name, bytes.data(), 32, out.data()));
      for (const float x : out) CHECK_THAT(std::abs(x - value) <= 2e-3f * std::abs(value));
    }
  }
}

TEST(ragged_block_rows_are_refused) {
  const at::Tensor weight = at::zeros({4, 35}, at::kChar);
  CHECK_THROWS(cpu_backend().linear(at::zeros({1, 32}), weight, std::nullopt), "no whole blocks");
}

}  // namespace chatspace::testing
