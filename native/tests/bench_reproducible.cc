// SPDX-License-Identifier: Apache-2.0
// The price of batch invariance: all matrix products of a decoder's layers at SmolLM2-135M's shapes, by
// our kernels, whose results do not depend on the number of rows, and by at::linear (MKL), whose do. Run
// by bench/reproducible.mjs.
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>

#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

double seconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Rows whose bits in a product of `rows` rows differ from those of the product of that row alone.
int64_t changed_rows(const std::function<at::Tensor(const at::Tensor&)>& product, const at::Tensor& x) {
  const at::Tensor together = product(x).contiguous();
  int64_t changed = 0;
  for (int64_t row = 0; row < x.size(0); ++row) {
    const at::Tensor alone = product(x.narrow(0, row, 1)).contiguous();
    const at::Tensor same = together.select(0, row).contiguous();
    changed += std::memcmp(alone.const_data_ptr(), same.const_data_ptr(), alone.nbytes()) != 0 ? 1 : 0;
  }
  return changed;
}

}  // namespace

BENCH(reproducible) {
  const int threads = usable_cores();
  at::set_num_threads(threads);
  ThreadPool pool(threads);
  PoolScope scope(&pool);
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{960, 576}, {576, 576}, {1536, 576}, {1536, 576}, {576, 1536}};
  constexpr int64_t kLayers = 30;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    std::vector<at::Tensor> weights;  // every layer's own: they come from memory, as in a model
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (const auto& [n, k] : shapes) weights.push_back((at::randn({n, k}) * 0.1).to(type));
    }
    for (const int64_t rows : {1, 4, 16, 64, 512}) {
      double ours = 1e9, library = 1e9;
      std::vector<at::Tensor> x, xt;
      for (const auto& [n, k] : shapes) {
        x.push_back(at::randn({rows, k}));
        xt.push_back(x.back().to(type));
      }
      double spent = 0;
      for (int round = 0; round < 3 || (spent < 2.0 && round < 100); ++round) {
        const double a = seconds_of([&] {
          for (size_t i = 0; i < weights.size(); ++i) cpu_backend().linear(x[i % shapes.size()], weights[i], {});
        });
        const double b = seconds_of([&] {
          for (size_t i = 0; i < weights.size(); ++i) at::linear(xt[i % shapes.size()], weights[i]);
        });
        ours = std::min(ours, a);
        library = std::min(library, b);
        spent += a + b;
      }
      const int64_t checked = std::min<int64_t>(rows, 64);
      int64_t ours_changed = 0, library_changed = 0;
      for (size_t s = 0; s < shapes.size(); ++s) {
        ours_changed += changed_rows([&](const at::Tensor& in) { return cpu_backend().linear(in, weights[s], {}); },
                                     x[s].narrow(0, 0, checked));
        library_changed += changed_rows([&](const at::Tensor& in) { return at::linear(in, weights[s]); },
                                        xt[s].narrow(0, 0, checked));
      }
      const auto all = static_cast<double>(checked * static_cast<int64_t>(shapes.size()));
      std::printf("reproducible %s %ld %.6f %.6f %.1f %.1f\n", c10::toString(type), static_cast<long>(rows),
                  ours * 1e3, library * 1e3, 100.0 * static_cast<double>(ours_changed) / all,
                  100.0 * static_cast<double>(library_changed) / all);
    }
  }
}

}  // namespace chatspace::testing
