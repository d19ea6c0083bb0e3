// SPDX-License-Identifier: Apache-2.0
// Matrix products: against float64, one row against the batch bit for bit, threads, awkward shapes.
#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

at::Tensor exact_linear(const at::Tensor& x, const at::Tensor& w, const OptionalTensor& bias) {
  at::Tensor out = x.to(at::kDouble).matmul(w.to(at::kDouble).t());
  return bias.has_value() ? out + bias->to(at::kDouble) : out;
}

at::Tensor exact_activation(const at::Tensor& x, const std::string& act) {
  if (act == "silu") return at::silu(x);
  if (act == "gelu_tanh") return at::gelu(x, "tanh");
  if (act == "gelu") return at::gelu(x);
  return at::relu(x);
}

const at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

}  // namespace

TEST(linear_matches_float64_on_any_shape) {
  at::manual_seed(1);
  for_each_isa([](const CpuKernels& kernels) {
    for (const at::ScalarType type : kTypes) {
      for (const int64_t k : {1, 7, 16, 48, 100, 576}) {
        for (const int64_t n : {1, 5, 24, 199, 576}) {
          for (const int64_t t : {1, 2, 3, 4, 5, 17}) {
            const at::Tensor x = at::randn({t, k}), w = at::randn({n, k}).to(type);
            const OptionalTensor bias = n % 2 == 0 ? OptionalTensor() : OptionalTensor(at::randn({n}));
            // Relative to the sum of magnitudes: a single element may cancel to nothing.
            const at::Tensor off = cpu_backend().linear(x, w, bias).to(at::kDouble) - exact_linear(x, w, bias);
            const at::Tensor size = exact_linear(x.abs(), w.abs(), {}) + 1.0;
            CHECK_CLOSE(off / size + 1.0, at::ones_like(size), 1e-6,
                        std::string(kernels.name) + " k " + std::to_string(k) + " n " + std::to_string(n) + " t " +
                            std::to_string(t));
          }
        }
      }
    }
  });
  report_worst("linear");
}

TEST(linear_row_alone_equals_row_in_any_batch) {
  at::manual_seed(2);
  ThreadPool pool(2);
  for_each_isa([&](const CpuKernels& kernels) {
    for (const at::ScalarType type : kTypes) {
      for (const auto& [k, n] : {std::pair<int64_t, int64_t>{48, 199}, {576, 192}, {1536, 61}}) {
        const at::Tensor x = at::randn({70, k}), w = at::randn({n, k}).to(type), bias = at::randn({n});
        std::vector<at::Tensor> alone;
        for (int64_t row = 0; row < 70; ++row) {
          alone.push_back(cpu_backend().linear(x.narrow(0, row, 1), w, bias));
        }
        const at::Tensor want = at::cat(alone);
        for (int64_t t = 1; t <= 70; ++t) {
          PoolScope scope(&pool);
          CHECK_SAME_BITS(cpu_backend().linear(x.narrow(0, 70 - t, t), w, bias), want.narrow(0, 70 - t, t),
                          std::string(kernels.name) + " t " + std::to_string(t));
        }
        const at::Tensor many = at::cat({x, x, x, x, x});
        PoolScope scope(&pool);
        CHECK_SAME_BITS(cpu_backend().linear(many, w, bias), at::cat({want, want, want, want, want}), "350 rows");
      }
    }
  });
}

TEST(linear3_equals_three_linears) {
  at::manual_seed(3);
  ThreadPool pool(3);
  PoolScope scope(&pool);
  for (const int64_t t : {1, 6, 130}) {
    const at::Tensor x = at::randn({t, 72});
    const at::Tensor q = at::randn({72, 72}), k = at::randn({24, 72}), v = at::randn({25, 72});
    const at::Tensor bq = at::randn({72});
    Backend& cpu = cpu_backend();
    CHECK_SAME_BITS(cpu.linear3(x, q, k, v, bq, {}, {}),
                    at::cat({cpu.linear(x, q, bq), cpu.linear(x, k, {}), cpu.linear(x, v, {})}, 1), "linear3");
    const at::Tensor half = q.to(at::kHalf);
    CHECK_SAME_BITS(cpu.linear3(x, half, k, v, {}, {}, {}).narrow(1, 0, 72), cpu.linear(x, half, {}), "mixed types");
  }
}

TEST(mlp_matches_reference_and_is_batch_invariant) {
  at::manual_seed(4);
  ThreadPool pool(2);
  PoolScope scope(&pool);
  for_each_isa([](const CpuKernels& kernels) {
    for (const std::string act : {"silu", "gelu_tanh", "gelu", "relu"}) {
      for (const at::ScalarType type : kTypes) {
        const int64_t h = 52, m = 470;
        const at::Tensor gate = (at::randn({m, h}) * 0.5).to(type), up = at::randn({m, h}).to(type),
                         down = at::randn({h, m}).to(type);
        const at::Tensor bg = at::randn({m}), bu = at::randn({m}), bd = at::randn({h});
        const at::Tensor x = at::randn({33, h});
        Backend& cpu = cpu_backend();
        const at::Tensor gated = cpu.gated_mlp(x, gate, up, down, bg, bu, bd, act);
        const at::Tensor middle = exact_activation(exact_linear(x, gate, bg), act) * exact_linear(x, up, bu);
        CHECK_CLOSE(gated, exact_linear(middle, down, bd), 3e-6, std::string(kernels.name) + " gated " + act);
        const at::Tensor plain = cpu.mlp(x, up, bu, down, bd, act);
        CHECK_CLOSE(plain, exact_linear(exact_activation(exact_linear(x, up, bu), act), down, bd), 3e-6,
                    std::string(kernels.name) + " mlp " + act);
        for (const int64_t row : {0, 13, 32}) {
          const at::Tensor one = x.narrow(0, row, 1);
          CHECK_SAME_BITS(cpu.gated_mlp(one, gate, up, down, bg, bu, bd, act), gated.narrow(0, row, 1), "gated row");
          CHECK_SAME_BITS(cpu.mlp(one, up, bu, down, bd, act), plain.narrow(0, row, 1), "mlp row");
        }
      }
    }
  });
  report_worst("mlp");
}

TEST(linear_refuses_what_does_not_fit) {
  Backend& cpu = cpu_backend();
  const at::Tensor x = at::zeros({2, 8});
  CHECK_THROWS(cpu.linear(x, at::zeros({4, 9}), {}), "must be [out, 8]");
  CHECK_THROWS(cpu.linear(x, at::zeros({4, 8}), at::zeros({5})), "bias must be [4]");
  CHECK_THROWS(cpu.linear(x, at::zeros({4, 8}, at::kLong), {}), "float32, bfloat16 or float16");
  CHECK_THROWS(cpu.linear(at::zeros({8}), at::zeros({4, 8}), {}), "[rows, width]");
  CHECK_THROWS(cpu.mlp(x, at::zeros({4, 8}), {}, at::zeros({8, 4}), {}, "swish"), "activation");
  CHECK_THAT(cpu.linear(at::zeros({0, 8}), at::zeros({4, 8}), {}).size(0) == 0);
  CHECK_SAME_BITS(cpu.linear(at::ones({16, 3}).t().slice(1, 0, 16, 2), at::ones({8, 4}).t(), {}), at::full({3, 4}, 8.0),
                  "strided views");
}

}  // namespace chatspace::testing
