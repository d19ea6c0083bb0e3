// SPDX-License-Identifier: Apache-2.0
// linear against at::linear (MKL) and against a plain read loop, at SmolLM2-135M's shapes, in one run.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "kernels/linear_cpu.h"
#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

int bench_threads() {
  const char* wanted = std::getenv("CHATSPACE_BENCH_THREADS");
  return wanted != nullptr ? std::max(1, std::atoi(wanted)) : usable_cores();
}

// One thread: its processor time, which a busy machine does not stretch. More: wall time.
double seconds_of(const std::function<void()>& body) {
  const auto now = [] {
    timespec time;
    clock_gettime(bench_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  const double start = now();
  body();
  return now() - start;
}

// Best time of each body; they take turns, so that a noisy neighbour hits all alike.
std::vector<double> best_seconds(double budget, const std::vector<std::function<void()>>& bodies) {
  std::vector<double> best(bodies.size(), 1e9);
  double spent = 0.0;
  for (int round = 0; round < 5 || (spent < budget && round < 3000); ++round) {
    for (size_t i = 0; i < bodies.size(); ++i) {
      const double seconds = seconds_of(bodies[i]);
      best[i] = std::min(best[i], seconds);
      spent += seconds;
    }
  }
  return best;
}

}  // namespace

BENCH(linear) {
  const int threads = bench_threads();
  at::set_num_threads(threads);
  ThreadPool pool(threads);
  PoolScope scope(&pool);
  std::printf("  isa %s, %d threads; GF/s = 2 T N K / best time; below T 64 through 30 copies of the weights\n",
              cpu_kernels().name, threads);
  struct Shape {
    const char* name;
    int64_t n, k;
  };
  for (const Shape shape : {Shape{"qkv", 960, 576}, {"o", 576, 576}, {"gate", 1536, 576}, {"down", 576, 1536}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      // As in a model: each layer's weights come from memory, not from the cache.
      std::vector<at::Tensor> weights;
      const int64_t copies = 30;
      for (int64_t i = 0; i < copies; ++i) weights.push_back((at::randn({shape.n, shape.k}) * 0.1).to(type));
      for (const int64_t t : {1, 4, 16, 64, 512}) {
        const at::Tensor x = at::randn({t, shape.k}), xt = x.to(type);
        const int64_t used = t >= 64 ? 1 : copies;
        const std::vector<double> best = best_seconds(0.4, {[&] {
                                                              for (int64_t i = 0; i < used; ++i)
                                                                cpu_backend().linear(x, weights[i], {});
                                                            },
                                                            [&] {
                                                              for (int64_t i = 0; i < used; ++i)
                                                                at::linear(xt, weights[i]);
                                                            }});
        const double flops = 2.0 * static_cast<double>(t * shape.n * shape.k * used) / 1e9;
        const double bytes = static_cast<double>(weights[0].nbytes() * used) / 1e9;
        std::printf("  %-5s %-9s T %4ld  ours %7.1f GF/s %6.2f GB/s   at::linear %7.1f GF/s   %.2fx\n", shape.name,
                    c10::toString(type), static_cast<long>(t), flops / best[0], bytes / best[0], flops / best[1],
                    best[1] / best[0]);
      }
    }
  }
}

BENCH(linear_bandwidth) {
  const int threads = bench_threads();
  at::set_num_threads(threads);
  ThreadPool pool(threads);
  PoolScope scope(&pool);
  struct Shape {
    const char* name;
    int64_t n, k;
  };
  for (const Shape shape : {Shape{"head", 49152, 576}, {"layers", 576 * 30 * 6, 576}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const at::Tensor weight = (at::randn({shape.n, shape.k}) * 0.1).to(type);
      const at::Tensor x = at::randn({1, shape.k}), xt = x.to(type);
      double read = 0.0;
      const std::vector<double> best =
          best_seconds(1.0, {[&] { cpu_backend().linear(x, weight, {}); }, [&] { at::linear(xt, weight); },
                             [&] { read = std::max(read, read_bandwidth(static_cast<int64_t>(weight.nbytes()), threads, 2)); }});
      const double gb = static_cast<double>(weight.nbytes()) / 1e9;
      std::printf("  %-6s %-9s read loop %6.2f GB/s   ours %6.2f GB/s (%3.0f %%)   at::linear %6.2f GB/s (%3.0f %%)\n",
                  shape.name, c10::toString(type), read, gb / best[0], 100 * gb / best[0] / read, gb / best[1],
                  100 * gb / best[1] / read);
    }
  }
}

}  // namespace chatspace::testing
