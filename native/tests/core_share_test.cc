// SPDX-License-Identifier: Apache-2.0
// Cores shared by models: never more threads than cores, never none, given back, no deadlock while
// shares change under running loops; chunks that cover every column once; the profile's sums.
#include "kernels/core_share.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include <sched.h>

#include "kernels/chunk_plan.h"
#include "kernels/profile.h"
#include "tests/check.h"

namespace chatspace::testing {

TEST(cores_are_divided_without_oversubscription) {
  CHECK_THAT((share_cores(8, {8}) == std::vector<int>{8}));
  CHECK_THAT((share_cores(2, {16}) == std::vector<int>{16}));  // alone: what was asked for
  CHECK_THAT((share_cores(8, {4, 4}) == std::vector<int>{4, 4}));
  CHECK_THAT((share_cores(8, {8, 8}) == std::vector<int>{4, 4}));
  CHECK_THAT((share_cores(2, {2, 2, 2}) == std::vector<int>{1, 1, 1}));
  CHECK_THAT((share_cores(7, {7, 7, 7}) == std::vector<int>{3, 2, 2}));
  for (int cores = 1; cores < 20; ++cores) {
    for (int a = 1; a < 20; ++a) {
      for (int b = 1; b < 20; ++b) {
        const std::vector<int> shares = share_cores(cores, {a, b});
        CHECK_THAT(shares[0] >= 1 && shares[1] >= 1 && shares[0] <= a && shares[1] <= b);
        CHECK_THAT(shares[0] + shares[1] <= std::max(cores, 2));
      }
    }
  }
}

TEST(a_share_is_taken_while_there_is_work_and_given_back) {
  const int cores = usable_cores();
  ThreadPool a(cores + 1), b(cores + 1);
  CoreLease first(a);
  first.hold(true);
  CHECK_THAT(a.width() == cores + 1);
  {
    CoreLease second(b);
    second.hold(true);
    second.hold(true);
    CHECK_THAT(running_models() == 2);
    CHECK_THAT(a.width() + b.width() <= std::max(cores, 2));
    second.hold(false);
    CHECK_THAT(a.width() == cores + 1 && b.width() == cores + 1);
    second.hold(true);
  }
  CHECK_THAT(a.width() == cores + 1 && running_models() == 1);
  first.hold(false);
  CHECK_THAT(running_models() == 0);
}

TEST(loops_end_while_shares_change_under_them) {
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  const auto model = [&](int threads) {
    ThreadPool pool(threads);
    CoreLease cores(pool);
    for (int round = 0; !stop.load(); ++round) {
      cores.hold(round % 5 != 4);
      for (int i = 0; i < 20; ++i) {
        std::atomic<int64_t> sum{0};
        const int64_t chunks = 1 + (round + i) % 31;
        pool.parallel_for(chunks, [&](int64_t chunk) { sum.fetch_add(chunk + 1); });
        if (sum.load() != chunks * (chunks + 1) / 2) wrong.fetch_add(1);
      }
    }
  };
  std::vector<std::thread> models;
  for (const int threads : {1, 2, 4}) models.emplace_back(model, threads);
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  stop.store(true);
  for (std::thread& thread : models) thread.join();
  CHECK_THAT(wrong.load() == 0);
  CHECK_THAT(running_models() == 0);
}

TEST(a_pinned_worker_keeps_to_its_core_and_is_let_go) {
  ThreadPool pool(3);
  std::vector<int> all;
  cpu_set_t set;
  sched_getaffinity(0, sizeof(set), &set);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(static_cast<size_t>(core), &set)) all.push_back(core);
  }
  const int last = all.back();
  const auto others = [&] {
    // Runs until a worker took part; its affinity is what it was given.
    std::atomic<int> count{-1};
    const std::thread::id caller = std::this_thread::get_id();
    while (count.load() < 0) {
      pool.parallel_for(64, [&](int64_t) {
        cpu_set_t mine;
        if (std::this_thread::get_id() == caller || sched_getaffinity(0, sizeof(mine), &mine) != 0) {
          std::this_thread::yield();
          return;
        }
        count.store(CPU_COUNT(&mine));
      });
    }
    return count.load();
  };
  pool.pin({all.front(), last, last}, all);
  CHECK_THAT(others() == 1);
  pool.pin({}, all);
  CHECK_THAT(others() == static_cast<int>(all.size()));
  sched_getaffinity(0, sizeof(set), &set);
  CHECK_THAT(CPU_COUNT(&set) == static_cast<int>(all.size()));  // the caller was left alone
}

TEST(chunks_cover_every_column_once_and_shrink) {
  for (const int64_t columns : {1, 7, 8, 576, 960, 1536, 49152}) {
    for (const int threads : {1, 2, 3, 16}) {
      for (const int64_t most : {8, 50, 2000}) {
        const ChunkPlan plan(columns, most, 10, 8, threads);
        int64_t before = columns + 8;
        for (int64_t i = 0; i < plan.count(); ++i) {
          const int64_t size = plan.starts[static_cast<size_t>(i) + 1] - plan.starts[static_cast<size_t>(i)];
          CHECK_THAT(size > 0 && size <= before);
          CHECK_THAT(i + 1 == plan.count() || size % 8 == 0);
          before = size;
        }
        CHECK_THAT(plan.starts.front() == 0 && plan.starts.back() == columns);
      }
    }
  }
}

TEST(a_profile_counts_own_time_once_and_nothing_when_off) {
  ThreadPool pool(2);
  PoolScope scope(&pool);
  const auto wait = [](int64_t nanoseconds) {
    for (const int64_t end = profile_clock() + nanoseconds; profile_clock() < end;) {
    }
  };
  start_profile();
  const int64_t begin = profile_clock();
  {
    const ProfileScope step(Operator::kStep);
    wait(2000000);
    const ProfileScope norm(Operator::kNorm, 64);
    pool.parallel_for(4, [&](int64_t) { wait(1000000); });
  }
  const int64_t wall = profile_clock() - begin;
  stop_profile();
  { const ProfileScope off(Operator::kNorm, 1000); }
  const Profile profile = read_profile();
  const OperatorTotals& step = profile[static_cast<size_t>(Operator::kStep)];
  const OperatorTotals& norm = profile[static_cast<size_t>(Operator::kNorm)];
  CHECK_THAT(step.calls == 1 && norm.calls == 1 && norm.bytes == 64);
  CHECK_THAT(step.nanoseconds >= 2000000 && norm.nanoseconds >= 1900000);
  CHECK_THAT(step.nanoseconds + norm.nanoseconds <= wall);
  CHECK_THAT(step.idle_nanoseconds >= 1900000);  // one of two threads had nothing to do
  CHECK_THAT(norm.idle_nanoseconds >= 0);
}

TEST(the_largest_value_is_found_wherever_it_is) {
  for_each_isa([](const CpuKernels& kernels) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    for (const int64_t n : {1, 3, 8, 31, 2048, 2049, 5000, 49152}) {
      std::vector<float> values(static_cast<size_t>(n), -1.0f);
      CHECK_THAT(kernels.argmax(values.data(), n) == 0);
      for (const int64_t at : {int64_t{0}, n / 3, n / 2, n - 1}) {
        std::vector<float> v = values;
        v[static_cast<size_t>(at)] = 2.0f;
        v[static_cast<size_t>(n - 1)] = 2.0f;  // of equals the first
        CHECK_THAT(kernels.argmax(v.data(), n) == at);
        std::fill(v.begin(), v.end(), nan);
        CHECK_THAT(kernels.argmax(v.data(), n) == 0);
        v[static_cast<size_t>(at)] = -3.0f;
        CHECK_THAT(kernels.argmax(v.data(), n) == at);
        std::fill(v.begin(), v.end(), -inf);
        v[0] = nan;
        CHECK_THAT(kernels.argmax(v.data(), n) == (n > 1 ? 1 : 0));
      }
    }
    CHECK_THAT(kernels.argmax(nullptr, 0) == 0);
  });
}

}  // namespace chatspace::testing
