// SPDX-License-Identifier: Apache-2.0
#include "kernels/thread_pool.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace chatspace {
namespace {

// Long enough to bridge the gap between two operators of a decode step, short enough that an idle model
// costs nothing that anyone notices.
constexpr auto kSpin = std::chrono::microseconds(40);

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins until ready() or the spin time is over; returns whether it became ready.
template <typename Ready>
bool spin_until(const Ready& ready) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause();
    }
    if (std::chrono::steady_clock::now() - start > kSpin) return ready();
  }
}

thread_local ThreadPool* t_pool = nullptr;
// Set while this thread works on a chunk of any pool: what it starts then runs inline.
thread_local bool t_inside = false;

struct ScratchBuffer {
  float* data = nullptr;
  int64_t size = 0;
  ~ScratchBuffer() { ::operator delete[](data, std::align_val_t(64)); }
};
thread_local ScratchBuffer t_scratch[static_cast<int>(Scratch::kCount)];

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (auto& thread : workers_) thread.join();
}

bool ThreadPool::claim_and_run(uint32_t epoch) {
  uint64_t seen = ticket_.load(std::memory_order_acquire);
  for (;;) {
    const uint32_t remaining = static_cast<uint32_t>(seen);
    if (static_cast<uint32_t>(seen >> 32) != epoch || remaining == 0) return false;
    if (ticket_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      // The job cannot end before this chunk is counted, so its fields are stable from here on.
      const uint32_t chunks = chunks_;
      task_(context_, static_cast<int64_t>(chunks - remaining));
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) done_.notify_one();
      return true;
    }
  }
}

void ThreadPool::run(int64_t chunks, Task task, const void* context) {
  if (chunks <= 0) return;
  std::unique_lock<std::mutex> owner(owner_, std::defer_lock);
  if (chunks == 1 || workers_.empty() || chunks > INT32_MAX || t_inside || !owner.try_lock()) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) task(context, chunk);
    return;
  }
  t_inside = true;
  task_ = task;
  context_ = context;
  chunks_ = static_cast<uint32_t>(chunks);
  done_.store(0, std::memory_order_relaxed);
  const uint32_t epoch = ++epoch_;
  ticket_.store(static_cast<uint64_t>(epoch) << 32 | chunks_, std::memory_order_release);
  signal_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) signal_.notify_all();
  while (claim_and_run(epoch)) {
  }
  const uint32_t all = chunks_;
  if (!spin_until([&] { return done_.load(std::memory_order_acquire) == all; })) {
    for (uint32_t done = done_.load(std::memory_order_acquire); done != all;
         done = done_.load(std::memory_order_acquire)) {
      done_.wait(done, std::memory_order_acquire);
    }
  }
  t_inside = false;
}

void ThreadPool::worker() {
  t_inside = true;
  uint32_t seen = 0;
  while (!stopping_.load(std::memory_order_acquire)) {
    const bool woken = spin_until([&] { return signal_.load(std::memory_order_acquire) != seen; });
    if (!woken) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      signal_.wait(seen, std::memory_order_seq_cst);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }
    seen = signal_.load(std::memory_order_acquire);
    const uint32_t epoch = static_cast<uint32_t>(ticket_.load(std::memory_order_acquire) >> 32);
    while (claim_and_run(epoch)) {
    }
  }
}

ThreadPool* current_pool() {
  static ThreadPool inline_pool(1);
  return t_pool != nullptr ? t_pool : &inline_pool;
}

void set_current_pool(ThreadPool* pool) { t_pool = pool; }

float* thread_scratch(Scratch slot, int64_t floats) {
  ScratchBuffer& buffer = t_scratch[static_cast<int>(slot)];
  if (buffer.size < floats) {
    ::operator delete[](buffer.data, std::align_val_t(64));
    buffer.data = nullptr;
    buffer.size = 0;
    const int64_t size = floats + floats / 4 + 64;
    buffer.data = static_cast<float*>(::operator new[](static_cast<size_t>(size) * sizeof(float), std::align_val_t(64)));
    buffer.size = size;
  }
  return buffer.data;
}

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  // cgroup v2 "quota period", or v1 with two files; absent or unlimited = no limit.
  double quota = -1;
  double period = 0;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%lf %lf", &quota, &period) != 2) quota = -1;
    std::fclose(file);
  } else if (std::FILE* v1 = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (std::fscanf(v1, "%lf", &quota) != 1) quota = -1;
    std::fclose(v1);
    if (std::FILE* v1_period = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(v1_period, "%lf", &period) != 1) period = 0;
      std::fclose(v1_period);
    }
  }
  if (quota > 0 && period > 0) {
    const int limit = static_cast<int>(quota / period + 0.999);
    if (limit < cores) cores = limit;
  }
#endif
  return cores < 1 ? 1 : cores;
}

}  // namespace chatspace
