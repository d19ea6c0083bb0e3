// SPDX-License-Identifier: Apache-2.0
// linear against at::linear (MKL) and against a plain read loop, at SmolLM2-135M's shapes, in one run.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "kernels/linear_cpu.h"
#include "kernels/quantize.h"
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

// One row of activations against quantised weights from memory: exact (GGUF blocks) and int16 (planes), in
// turns with the read loop; then 256 rows.
BENCH(linear_int16) {
  const int threads = bench_threads();
  ThreadPool pool(threads);
  PoolScope scope(&pool);
  std::printf("  isa %s, %d threads\n", cpu_kernels().name, threads);
  struct Shape {
    const char* name;
    int64_t n, k;
  };
  struct Type {
    const char* name;
    ElementType type;
  };
  for (const Shape shape : {Shape{"K 576", 98304, 576}, {"K 1536", 36864, 1536}, {"K 4096", 14336, 4096}}) {
    for (const Type type : {Type{"Q8_0", ElementType::kQ8_0}, {"Q4_0", ElementType::kQ4_0}, {"Q4_1", ElementType::kQ4_1}}) {
      const int64_t row = row_bytes(type.type, shape.k), many = 256, few = 1536;
      const at::Tensor values = at::randn({8, shape.k}) * 0.05, x = at::randn({many, shape.k});
      std::vector<char> blocks(static_cast<size_t>(row * shape.n)), planes(blocks.size());
      for (int64_t i = 0; i < shape.n; ++i) {
        char* to = blocks.data() + i * row;
        if (i < 8) {
          quantize_row(type.type, values.const_data_ptr<float>() + i * shape.k, shape.k, to);
        } else {
          std::copy_n(to - 8 * row, row, to);
        }
        planes_row(type.type, to, shape.k, planes.data() + i * row);
      }
      std::vector<float> out(static_cast<size_t>(std::max(shape.n, many * few)));
      const auto run = [&](const std::vector<char>& weight, ElementType as, int64_t rows, int64_t n) {
        const LinearPart part{weight.data(), as, n, nullptr, out.data()};
        linear_parts(x.const_data_ptr<float>(), shape.k, rows, shape.k, &part, 1, n);
      };
      double read = 0.0;
      const std::vector<double> best = best_seconds(
          0.5, {[&] { run(blocks, type.type, 1, shape.n); }, [&] { run(planes, planes_of(type.type), 1, shape.n); },
                [&] { read = std::max(read, read_bandwidth(row * shape.n, threads, 1)); }});
      const std::vector<double> batch = best_seconds(0.2, {[&] { run(blocks, type.type, many, few); },
                                                           [&] { run(planes, planes_of(type.type), many, few); }});
      const double gb = static_cast<double>(row * shape.n) / 1e9;
      const double flops = 2.0 * static_cast<double>(many * few * shape.k) / 1e9;
      std::printf("  %-6s %s read loop %5.1f GB/s   exact %5.1f (%3.0f %%)   int16 %5.1f (%3.0f %%)   256 rows: exact %6.1f"
                  "   int16 %6.1f GF/s\n",
                  shape.name, type.name, read, gb / best[0], 100 * gb / best[0] / read, gb / best[1],
                  100 * gb / best[1] / read, flops / batch[0], flops / batch[1]);
    }
  }
}

}  // namespace chatspace::testing
