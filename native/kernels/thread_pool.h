// SPDX-License-Identifier: Apache-2.0
// The threads of one model. The caller works too, chunks are claimed one at a time, and nobody waits
// for a worker that has not woken: on a machine whose cores are shared, two threads are never slower
// than one because a sleeping or descheduled worker simply claims nothing.
//
// A step is a chain of matrix products with small work between them, during which memory would stand
// idle. So the pool remembers which weights followed which the last time, and a thread that has nothing
// to do meanwhile prefetches the start of the next ones.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <vector>

namespace chatspace {

// Memory that a parallel loop reads from end to end; it is only ever prefetched, never accessed.
struct Stream {
  const void* data = nullptr;
  int64_t bytes = 0;
};

class ThreadPool {
 public:
  // `threads` counts the caller: n - 1 workers are started (1 or less = everything inline).
  explicit ThreadPool(int threads);
  // Joins the workers. No parallel_for may be running.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Threads that may work now, the caller counted: other models may have some of the cores (core_share.h).
  int width() const { return width_.load(std::memory_order_relaxed); }
  void set_width(int threads);
  // Worker i runs on cores[i + 1] from now on, on any of `all` when it has none of its own; cores[0] is
  // left to the caller, which is not bound: threads that it starts (libgomp's) would inherit that.
  void pin(const std::vector<int>& cores, const std::vector<int>& all);

  // Calls body(chunk) once for each chunk in [0, chunks); returns when all are done. The body must not
  // throw. Nested calls, and calls while another thread uses the pool, run inline.
  template <typename Body>
  void parallel_for(int64_t chunks, const Body& body) {
    run(chunks, [](const void* context, int64_t chunk) { (*static_cast<const Body*>(context))(chunk); }, &body, {});
  }
  // The same for a loop that reads `stream`.
  template <typename Body>
  void parallel_for(int64_t chunks, const Stream& stream, const Body& body) {
    run(chunks, [](const void* context, int64_t chunk) { (*static_cast<const Body*>(context))(chunk); }, &body,
        stream);
  }

 private:
  using Task = void (*)(const void* context, int64_t chunk);
  void run(int64_t chunks, Task task, const void* context, const Stream& stream);
  bool claim_and_run(uint32_t epoch);
  void worker(int index);
  // Notes that `stream` is read now and makes what followed it the last time the stream to fetch ahead.
  void follow(const Stream& stream);
  // A piece of it into the second-level cache; nothing when there is none left.
  void fetch_ahead();

  // One word holds the job's number (high half) and the chunks nobody has claimed (low half), so that a
  // late worker can never claim from a job it has not seen.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int> width_;
  // What is read next. The three are not changed together: a mixture is a useless prefetch, no more.
  alignas(64) std::atomic<const char*> ahead_{nullptr};
  std::atomic<int64_t> ahead_next_{0};
  std::atomic<int64_t> ahead_end_{0};
  std::unordered_map<const void*, Stream> follows_;  // of whoever holds owner_
  const void* previous_ = nullptr;
  bool profiled_ = false;               // this job's chunks are timed
  std::atomic<int64_t> busy_{0};        // nanoseconds in them
  Task task_ = nullptr;
  const void* context_ = nullptr;
  uint32_t chunks_ = 0;
  uint32_t epoch_ = 0;
  std::mutex owner_;
  std::vector<std::thread> workers_;
};

// The pool the operators use on this thread; a pool without workers until one is set. Not owned.
ThreadPool* current_pool();
void set_current_pool(ThreadPool* pool);

// Sets the pool for a scope.
class PoolScope {
 public:
  explicit PoolScope(ThreadPool* pool) : previous_(current_pool()) { set_current_pool(pool); }
  ~PoolScope() { set_current_pool(previous_); }
  PoolScope(const PoolScope&) = delete;
  PoolScope& operator=(const PoolScope&) = delete;

 private:
  ThreadPool* previous_;
};

// 64-byte aligned scratch of this thread, grown as needed and kept. Contents are undefined; a second
// call with the same slot invalidates the first.
enum class Scratch : int { kPanel = 0, kRows = 1, kScores = 2, kSteer = 3, kInt16 = 4, kCount = 5 };
float* thread_scratch(Scratch slot, int64_t floats);

// Cores this process may use (affinity and cgroup quota), at least 1.
int usable_cores();

}  // namespace chatspace
