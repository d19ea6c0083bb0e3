// SPDX-License-Identifier: Apache-2.0
// Attention at SmolLM2-135M's shape: decode at several contexts and prefill, beside
// at::scaled_dot_product_attention on keys and values that are already gathered and expanded.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "ops/kv_cache.h"
#include "tests/check.h"

namespace chatspace::testing {

BENCH(attention) {
  const char* wanted = std::getenv("CHATSPACE_BENCH_THREADS");
  const int threads = wanted != nullptr ? std::max(1, std::atoi(wanted)) : usable_cores();
  at::set_num_threads(threads);
  ThreadPool pool(threads);
  PoolScope scope(&pool);
  const int64_t heads = 9, kv_heads = 3, hd = 64, blocks = 256;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [rows, context] :
         {std::pair<int64_t, int64_t>{1, 128}, {1, 1024}, {1, 8192}, {16, 512}, {512, 512}, {512, 2048}, {512, 8192}}) {
      KVCache cache("chatspace-cache 1\nlayer 9 3 64 0 0 -1 0.125 0 0\n");
      cache.allocate(blocks, type, at::kCPU);
      const at::Tensor table = at::arange(blocks, at::kInt).view({1, blocks});
      const at::Tensor fill = at::randn({context, (heads + 2 * kv_heads) * hd});
      for (int64_t at = 0; at < context; at += 512) {
        const int64_t n = std::min<int64_t>(512, context - at);
        cache.begin_step({at::arange(at, at + n, at::kInt), at::zeros({n}, at::kInt), table});
        cache.attend(0, fill.narrow(0, at, n), {}, {}, 1e-6);
      }
      const at::Tensor qkv = fill.narrow(0, context - rows, rows);
      cache.begin_step({at::arange(context - rows, context, at::kInt), at::zeros({rows}, at::kInt), table});
      const at::Tensor q = at::randn({1, heads, rows, hd});
      const at::Tensor k = at::randn({1, heads, context, hd}), v = at::randn({1, heads, context, hd});
      at::Tensor mask = at::arange(context).unsqueeze(0).le(at::arange(context - rows, context).unsqueeze(1));
      double ours = 1e9, theirs = 1e9, spent = 0.0;
      const auto time = [&](double* best, const auto& body) {
        // One thread: processor time, which a busy machine does not stretch.
        const auto now = [&] {
          timespec time;
          clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
          return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
        };
        const double start = now();
        body();
        const double seconds = now() - start;
        *best = std::min(*best, seconds);
        spent += seconds;
      };
      for (int round = 0; round < 5 || (spent < 0.4 && round < 2000); ++round) {
        time(&ours, [&] { cache.attend(0, qkv, {}, {}, 1e-6); });
        if (type == at::kFloat) time(&theirs, [&] { at::scaled_dot_product_attention(q, k, v, mask); });
      }
      const double visible = static_cast<double>(rows) * (static_cast<double>(context) - static_cast<double>(rows - 1) / 2);
      const double flops = 4.0 * visible * static_cast<double>(heads * hd) / 1e9;
      const double read = 2.0 * static_cast<double>(context * kv_heads * hd * c10::elementSize(type)) / 1e9;
      std::printf("  %-9s rows %4ld context %5ld  ours %9.1f us %6.1f GF/s %5.1f GB/s", c10::toString(type),
                  static_cast<long>(rows), static_cast<long>(context), ours * 1e6, flops / ours, read / ours);
      if (type == at::kFloat) std::printf("   at::sdpa %9.1f us  %.2fx", theirs * 1e6, theirs / ours);
      std::printf("\n");
    }
  }
}

}  // namespace chatspace::testing
