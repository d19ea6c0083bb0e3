// SPDX-License-Identifier: Apache-2.0
// Norms, embedding lookup, conversions and the vector exponential.
#include <cmath>
#include <cstring>

#include "kernels/element.h"
#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {

TEST(norms_match_float64_and_are_batch_invariant) {
  at::manual_seed(5);
  ThreadPool pool(2);
  PoolScope scope(&pool);
  for_each_isa([](const CpuKernels& kernels) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const int64_t h : {1, 7, 48, 576, 1000}) {
        const at::Tensor delta = at::randn({37, h}), residual = at::randn({37, h}) * 3 + 1;
        const at::Tensor w = at::randn({h}).to(type), b = at::randn({h}).to(type);
        const std::string name = std::string(kernels.name) + " width " + std::to_string(h);
        Backend& cpu = cpu_backend();
        const at::Tensor sum = (delta + residual).to(at::kDouble);
        const auto [rms_sum, rms] = cpu.add_rms_norm(delta, residual, w, 1e-5);
        CHECK_SAME_BITS(rms_sum, delta + residual, "residual " + name);
        const at::Tensor want = sum * at::rsqrt(sum.pow(2).mean(1, true) + 1e-5) * w.to(at::kDouble);
        CHECK_CLOSE(rms, want, 1e-6, "rms " + name);
        CHECK_SAME_BITS(cpu.rms_norm(delta + residual, w, 1e-5), rms, "rms_norm " + name);
        const auto [layer_sum, layer] = cpu.add_layer_norm(delta, residual, w, b, 1e-5);
        CHECK_SAME_BITS(layer_sum, delta + residual, "residual " + name);
        const at::Tensor centred = sum - sum.mean(1, true);
        const at::Tensor scaled = centred * at::rsqrt(centred.pow(2).mean(1, true) + 1e-5);
        CHECK_CLOSE(layer, scaled * w.to(at::kDouble) + b.to(at::kDouble), 2e-6, "layer norm " + name);
        for (const int64_t row : {0, 36}) {
          const auto [s1, n1] = cpu.add_rms_norm(delta.narrow(0, row, 1), residual.narrow(0, row, 1), w, 1e-5);
          CHECK_SAME_BITS(n1, rms.narrow(0, row, 1), "rms row " + name);
          const auto [s2, n2] = cpu.add_layer_norm(delta.narrow(0, row, 1), residual.narrow(0, row, 1), w, b, 1e-5);
          CHECK_SAME_BITS(n2, layer.narrow(0, row, 1), "layer norm row " + name);
        }
      }
    }
  });
  report_worst("norms");
  Backend& cpu = cpu_backend();
  CHECK_THROWS(cpu.rms_norm(at::zeros({2, 8}), at::zeros({9}), 1e-5), "must be [8]");
  CHECK_THROWS(cpu.add_rms_norm(at::zeros({2, 8}), at::zeros({3, 8}), at::zeros({8}), 1e-5), "residual is");
}

TEST(a_norm_leaves_its_inputs_alone) {
  const at::Tensor delta = at::randn({3, 20}), residual = at::randn({3, 20}), w = at::ones({20});
  const at::Tensor d = delta.clone(), r = residual.clone();
  cpu_backend().add_rms_norm(delta, residual, w, 1e-5);
  cpu_backend().add_layer_norm(delta, delta, w, {}, 1e-5);
  CHECK_SAME_BITS(delta, d, "delta");
  CHECK_SAME_BITS(residual, r, "residual");
}

TEST(embed_looks_up_rows_and_refuses_strangers) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor table = at::randn({50, 37}).to(type);
    const at::Tensor tokens = at::tensor({0, 49, 7, 7}, at::kLong);
    CHECK_SAME_BITS(cpu_backend().embed(tokens, table), table.index_select(0, tokens).to(at::kFloat), "embed");
    CHECK_THROWS(cpu_backend().embed(at::tensor({1, 50}, at::kLong), table), "token 50 of row 1");
    CHECK_THROWS(cpu_backend().embed(at::tensor({-1}, at::kLong), table), "token -1");
  }
  CHECK_THROWS(cpu_backend().embed(at::zeros({2}, at::kInt), at::zeros({5, 4})), "int64");
}

TEST(half_conversions_equal_atens_for_every_value) {
  at::Tensor bits = at::arange(65536, at::kInt).to(at::kShort);
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const at::Tensor halves = bits.view(type);
    const at::Tensor want = halves.to(at::kFloat);
    const bool bfloat = type == at::kBFloat16;
    for_each_isa([&](const CpuKernels& kernels) {
      at::Tensor got = at::empty({65536});
      kernels.to_float(halves.const_data_ptr(), bfloat ? ElementType::kBFloat16 : ElementType::kFloat16, 65536,
                       got.mutable_data_ptr<float>());
      const at::Tensor number = at::isnan(want).logical_not();
      CHECK_SAME_BITS(got.masked_select(number), want.masked_select(number), kernels.name);
      CHECK_THAT(at::isnan(got).masked_select(number.logical_not()).all().item<bool>());
    });
    // Back: random floats of every exponent, and ties.
    at::Tensor floats = at::cat({at::randint(-2147483648LL, 2147483647LL, {200000}, at::kLong).to(at::kInt).view(at::kFloat),
                                 want, want * 1.0004882812f, want * (1 + 1.0f / 256)});
    floats = floats.masked_select(at::isnan(floats).logical_not()).contiguous();
    const at::Tensor there = floats.to(type);
    at::Tensor ours = at::empty_like(there);
    cpu_kernels().from_float(floats.const_data_ptr<float>(), bfloat ? ElementType::kBFloat16 : ElementType::kFloat16,
                             floats.numel(), ours.data_ptr());
    CHECK_SAME_BITS(ours, there, bfloat ? "to bfloat16" : "to float16");
  }
}

TEST(exp_is_within_two_ulp) {
  for_each_isa([](const CpuKernels& kernels) {
    const at::Tensor x = at::linspace(-87.3, 88.3, 2000003);
    at::Tensor got = at::empty_like(x);
    kernels.exp(x.const_data_ptr<float>(), x.numel(), got.mutable_data_ptr<float>());
    const float* in = x.const_data_ptr<float>();
    const float* out = got.const_data_ptr<float>();
    double worst = 0.0;
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double want = std::exp(static_cast<double>(in[i]));
      const float nearest = static_cast<float>(want);
      const double ulp = static_cast<double>(std::nextafter(nearest, INFINITY)) - static_cast<double>(nearest);
      worst = std::max(worst, std::abs(static_cast<double>(out[i]) - want) / ulp);
    }
    std::printf("  %s: worst %.2f ulp\n", kernels.name, worst);
    CHECK_THAT(worst <= 2.0);
    const float odd[4] = {NAN, 1000.0f, -1000.0f, 0.0f};
    float result[4];
    kernels.exp(odd, 4, result);
    CHECK_THAT(std::isnan(result[0]) && result[1] > 2e38f && result[2] < 2e-38f && result[3] == 1.0f);
  });
}

}  // namespace chatspace::testing
