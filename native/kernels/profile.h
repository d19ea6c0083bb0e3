// SPDX-License-Identifier: Apache-2.0
// Where the time of a step goes: per operator its calls, its own time (what it calls left out), the time
// in which threads of its pool had nothing to do, and the bytes of weights it read. Off, a scope is one
// relaxed load; a process turns it on and off at any time. Totals are of the process, over all models.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

namespace chatspace {

enum class Operator : int32_t {
  kStep = 0,    // planning, requests, tokens to JavaScript: what no line below holds
  kTables,      // steering tables filled and read back
  kForward,     // the interpreter between the operators
  kEmbed,
  kNorm,
  kQkv,
  kAttention,
  kLinear,      // attention's output product
  kMlp,
  kSteer,
  kHead,        // the product over the vocabulary
  kSampler,
  kCount
};
const char* operator_name(Operator which);

struct OperatorTotals {
  int64_t calls = 0;
  int64_t nanoseconds = 0;       // wall time, without the operators called inside
  int64_t idle_nanoseconds = 0;  // summed over the pool's threads, the caller's waits included
  int64_t bytes = 0;
};
using Profile = std::array<OperatorTotals, static_cast<size_t>(Operator::kCount)>;

extern std::atomic<bool> profile_enabled;
inline bool profiling() { return profile_enabled.load(std::memory_order_relaxed); }
// Starts from zero. Steps that run while it is called are counted in part.
void start_profile();
void stop_profile();
Profile read_profile();

// The end of one step of a model: clocks, and every operator's own time so far. Differences of two marks
// are one step, with what the executor does between steps.
struct StepMark {
  int64_t rows = 0;
  int64_t end = 0;        // profile_clock()
  int64_t processor = 0;  // nanoseconds of processor time of all threads of the process
  std::array<int64_t, static_cast<size_t>(Operator::kCount)> nanoseconds{};
};
// Since the start of the profile, the last kStepMarks of them.
constexpr size_t kStepMarks = 16384;
std::vector<StepMark> read_step_marks();

int64_t profile_clock();
// A parallel loop of this thread: `wall` in the loop, `busy` in its chunks summed over `threads`.
void profile_region(int64_t wall, int64_t busy, int threads);

class ProfileScope {
 public:
  explicit ProfileScope(Operator which, int64_t bytes = 0) {
    if (profiling()) begin(which, bytes);
  }
  ~ProfileScope() {
    if (start_ != 0) end();
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;
  // This scope is a step of so many rows: its end is marked.
  void step_of(size_t rows) { rows_ = static_cast<int64_t>(rows); }

 private:
  friend void profile_region(int64_t wall, int64_t busy, int threads);
  void begin(Operator which, int64_t bytes);
  void end();

  Operator which_ = Operator::kStep;
  ProfileScope* outer_ = nullptr;
  int64_t start_ = 0;
  int64_t bytes_ = 0;
  int64_t rows_ = 0;
  int64_t inner_ = 0;    // wall time of scopes inside
  int64_t regions_ = 0;  // wall time in parallel loops of this scope itself
  int64_t idle_ = 0;     // in those loops
};

}  // namespace chatspace
