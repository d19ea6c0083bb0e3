// SPDX-License-Identifier: Apache-2.0
#include "kernels/thread_pool.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <climits>
#include <new>

#include "kernels/profile.h"

#if defined(__linux__)
#include <pthread.h>
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

// What a pool fetches ahead at most: what memory delivers in the time between two products, and no more
// than a second-level cache holds.
constexpr int64_t kAhead = 256 * 1024;
constexpr int64_t kAheadPiece = 1024;
// Weights whose successor is remembered; a model has a few hundred.
constexpr size_t kMostFollowed = 8192;

// Spins until ready() or the spin time is over; returns whether it became ready. meanwhile() is called
// between looks and must be short.
template <typename Ready, typename Meanwhile>
bool spin_until(const Ready& ready, const Meanwhile& meanwhile) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      meanwhile();
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

ThreadPool::ThreadPool(int threads) : width_(threads < 1 ? 1 : threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  set_width(INT_MAX);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (auto& thread : workers_) thread.join();
}

void ThreadPool::set_width(int threads) {
  width_.store(threads < 1 ? 1 : threads, std::memory_order_release);
  width_.notify_all();
}

void ThreadPool::pin(const std::vector<int>& cores, const std::vector<int>& all) {
#if defined(__linux__)
  for (size_t i = 0; i < workers_.size(); ++i) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (i + 1 < cores.size()) {
      CPU_SET(static_cast<size_t>(cores[i + 1]), &set);
    } else {
      for (const int core : all) CPU_SET(static_cast<size_t>(core), &set);
    }
    pthread_setaffinity_np(workers_[i].native_handle(), sizeof(set), &set);  // refused: it stays where it may run
  }
#else
  (void)cores;
  (void)all;
#endif
}

void ThreadPool::follow(const Stream& stream) {
  ahead_end_.store(0, std::memory_order_relaxed);
  if (stream.data == nullptr) return;
  if (previous_ != nullptr) {
    if (follows_.size() >= kMostFollowed) follows_.clear();
    follows_[previous_] = stream;
  }
  previous_ = stream.data;
  const auto next = follows_.find(stream.data);
  if (next == follows_.end()) return;
  ahead_.store(static_cast<const char*>(next->second.data), std::memory_order_relaxed);
  ahead_next_.store(0, std::memory_order_relaxed);
  ahead_end_.store(next->second.bytes < kAhead ? next->second.bytes : kAhead, std::memory_order_relaxed);
}

void ThreadPool::fetch_ahead() {
#if defined(__x86_64__)
  if (ahead_next_.load(std::memory_order_relaxed) >= ahead_end_.load(std::memory_order_relaxed)) return;
  const int64_t from = ahead_next_.fetch_add(kAheadPiece, std::memory_order_relaxed);
  const char* data = ahead_.load(std::memory_order_relaxed) + from;
  for (int64_t i = 0; i < kAheadPiece; i += 64) _mm_prefetch(data + i, _MM_HINT_T1);
#endif
}

bool ThreadPool::claim_and_run(uint32_t epoch) {
  uint64_t seen = ticket_.load(std::memory_order_acquire);
  for (;;) {
    const uint32_t remaining = static_cast<uint32_t>(seen);
    if (static_cast<uint32_t>(seen >> 32) != epoch || remaining == 0) return false;
    if (ticket_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      // The job cannot end before this chunk is counted, so its fields are stable from here on.
      const uint32_t chunks = chunks_;
      const int64_t start = profiled_ ? profile_clock() : 0;
      task_(context_, static_cast<int64_t>(chunks - remaining));
      if (profiled_) busy_.fetch_add(profile_clock() - start, std::memory_order_relaxed);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) done_.notify_one();
      return true;
    }
  }
}

void ThreadPool::run(int64_t chunks, Task task, const void* context, const Stream& stream) {
  if (chunks <= 0) return;
  std::unique_lock<std::mutex> owner(owner_, std::defer_lock);
  if (chunks == 1 || workers_.empty() || width() == 1 || chunks > INT32_MAX || t_inside || !owner.try_lock()) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) task(context, chunk);
    return;
  }
  t_inside = true;
  profiled_ = profiling();
  const int64_t start = profiled_ ? profile_clock() : 0;
  busy_.store(0, std::memory_order_relaxed);
  if (stream.data != nullptr) follow(stream);
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
  if (!spin_until([&] { return done_.load(std::memory_order_acquire) == all; }, [this] { fetch_ahead(); })) {
    for (uint32_t done = done_.load(std::memory_order_acquire); done != all;
         done = done_.load(std::memory_order_acquire)) {
      done_.wait(done, std::memory_order_acquire);
    }
  }
  if (profiled_) profile_region(profile_clock() - start, busy_.load(std::memory_order_relaxed), threads());
  t_inside = false;
}

void ThreadPool::worker(int index) {
  t_inside = true;
  uint32_t seen = 0;
  while (!stopping_.load(std::memory_order_acquire)) {
    // Other models have this core: sleep until the share grows, so that no job has to wake anyone for nothing.
    for (int width = width_.load(std::memory_order_acquire); index >= width;
         width = width_.load(std::memory_order_acquire)) {
      width_.wait(width, std::memory_order_acquire);
    }
    const bool woken = spin_until([&] { return signal_.load(std::memory_order_acquire) != seen; },
                                  [this] { fetch_ahead(); });
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
