// SPDX-License-Identifier: Apache-2.0
// The threads of one model. The caller works too, chunks are claimed one at a time, and nobody waits
// for a worker that has not woken: on a machine whose cores are shared, two threads are never slower
// than one because a sleeping or descheduled worker simply claims nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace chatspace {

class ThreadPool {
 public:
  // `threads` counts the caller: n - 1 workers are started (1 or less = everything inline).
  explicit ThreadPool(int threads);
  // Joins the workers. No parallel_for may be running.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(chunk) once for each chunk in [0, chunks); returns when all are done. The body must not
  // throw. Nested calls, and calls while another thread uses the pool, run inline.
  template <typename Body>
  void parallel_for(int64_t chunks, const Body& body) {
    run(chunks, [](const void* context, int64_t chunk) { (*static_cast<const Body*>(context))(chunk); }, &body);
  }

 private:
  using Task = void (*)(const void* context, int64_t chunk);
  void run(int64_t chunks, Task task, const void* context);
  bool claim_and_run(uint32_t epoch);
  void worker();

  // One word holds the job's number (high half) and the chunks nobody has claimed (low half), so that a
  // late worker can never claim from a job it has not seen.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stopping_{false};
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
enum class Scratch : int { kPanel = 0, kRows = 1, kScores = 2, kSteer = 3, kCount = 4 };
float* thread_scratch(Scratch slot, int64_t floats);

// Cores this process may use (affinity and cgroup quota), at least 1.
int usable_cores();

}  // namespace chatspace
