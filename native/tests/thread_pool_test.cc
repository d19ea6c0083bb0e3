// SPDX-License-Identifier: Apache-2.0
// Every chunk once, whatever happens: two pools at once, nesting, shared pools, many small jobs.
#include "kernels/thread_pool.h"

#include <atomic>
#include <chrono>
#include <ctime>

#include "kernels/linear_cpu.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

bool each_once(ThreadPool& pool, int64_t chunks) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(chunks));
  pool.parallel_for(chunks, [&](int64_t chunk) { seen[static_cast<size_t>(chunk)].fetch_add(1); });
  for (auto& count : seen) {
    if (count.load() != 1) return false;
  }
  return true;
}

}  // namespace

TEST(pool_runs_each_chunk_once) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int i = 0; i < 3000; ++i) CHECK_THAT(each_once(pool, i % 40));
  }
}

TEST(two_pools_work_at_once_and_a_shared_pool_stays_right) {
  ThreadPool a(3), b(2), shared(3);
  std::atomic<int> wrong{0};
  const auto work = [&](ThreadPool& own) {
    for (int i = 0; i < 1500; ++i) {
      if (!each_once(own, 1 + i % 23) || !each_once(shared, 1 + i % 7)) wrong.fetch_add(1);
    }
  };
  std::thread other([&] { work(a); });
  work(b);
  other.join();
  CHECK_THAT(wrong.load() == 0);
}

TEST(a_nested_loop_runs_inline) {
  ThreadPool pool(3);
  PoolScope scope(&pool);
  std::atomic<int> total{0};
  pool.parallel_for(20, [&](int64_t) { current_pool()->parallel_for(10, [&](int64_t) { total.fetch_add(1); }); });
  pool.parallel_for(20, [&](int64_t) { pool.parallel_for(10, [&](int64_t) { total.fetch_add(1); }); });
  CHECK_THAT(total.load() == 400);
}

TEST(pools_start_and_stop_quickly_and_sleep_when_idle) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(3);
    if (i % 2 == 0) CHECK_THAT(each_once(pool, 5));
  }
  ThreadPool pool(4);
  CHECK_THAT(each_once(pool, 8));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const double used = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  std::printf("  processor time of three idle workers in 300 ms: %.4f s\n", used);
  CHECK_THAT(used < 0.03);
}

TEST(read_bandwidth_is_a_number) {
  CHECK_THAT(read_bandwidth(1 << 22, 2, 2) > 0.1);
  CHECK_THAT(read_bandwidth(0, 0, 0) > 0.0);
  CHECK_THAT(usable_cores() >= 1);
}

}  // namespace chatspace::testing
