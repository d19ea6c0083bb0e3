// SPDX-License-Identifier: Apache-2.0
#include "kernels/profile.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>

#include "kernels/thread_pool.h"

namespace chatspace {
namespace {

struct Totals {
  std::atomic<int64_t> calls{0}, nanoseconds{0}, idle{0}, bytes{0};
};
Totals g_totals[static_cast<int>(Operator::kCount)];
thread_local ProfileScope* t_scope = nullptr;
std::mutex g_marks_mutex;
std::deque<StepMark> g_marks;

int64_t processor_clock() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void mark_step(int64_t rows, int64_t end) {
  StepMark mark;
  mark.rows = rows;
  mark.end = end;
  mark.processor = processor_clock();
  for (size_t i = 0; i < mark.nanoseconds.size(); ++i) {
    mark.nanoseconds[i] = g_totals[i].nanoseconds.load(std::memory_order_relaxed);
  }
  std::lock_guard<std::mutex> lock(g_marks_mutex);
  if (g_marks.size() == kStepMarks) g_marks.pop_front();
  g_marks.push_back(mark);
}

}  // namespace

std::atomic<bool> profile_enabled{false};

const char* operator_name(Operator which) {
  constexpr const char* kNames[] = {"step",      "tables", "interpreter", "embed", "norm", "qkv",
                                    "attention", "linear", "mlp",         "steer", "head", "sampler"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(Operator::kCount));
  return kNames[static_cast<int>(which)];
}

int64_t profile_clock() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void start_profile() {
  for (Totals& totals : g_totals) {
    for (auto* value : {&totals.calls, &totals.nanoseconds, &totals.idle, &totals.bytes}) value->store(0);
  }
  {
    std::lock_guard<std::mutex> lock(g_marks_mutex);
    g_marks.clear();
  }
  profile_enabled.store(true);
}

void stop_profile() { profile_enabled.store(false); }

Profile read_profile() {
  Profile out;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = {g_totals[i].calls.load(), g_totals[i].nanoseconds.load(), g_totals[i].idle.load(),
              g_totals[i].bytes.load()};
  }
  return out;
}

std::vector<StepMark> read_step_marks() {
  std::lock_guard<std::mutex> lock(g_marks_mutex);
  return {g_marks.begin(), g_marks.end()};
}

void profile_region(int64_t wall, int64_t busy, int threads) {
  if (t_scope == nullptr) return;
  t_scope->regions_ += wall;
  t_scope->idle_ += std::max<int64_t>(0, wall * threads - busy);
}

void ProfileScope::begin(Operator which, int64_t bytes) {
  which_ = which;
  bytes_ = bytes;
  outer_ = t_scope;
  t_scope = this;
  start_ = profile_clock();
}

void ProfileScope::end() {
  const int64_t end = profile_clock();
  const int64_t wall = end - start_;
  t_scope = outer_;
  if (outer_ != nullptr) outer_->inner_ += wall;
  const int64_t own = wall - inner_;
  Totals& totals = g_totals[static_cast<int>(which_)];
  totals.calls.fetch_add(1, std::memory_order_relaxed);
  totals.nanoseconds.fetch_add(own, std::memory_order_relaxed);
  // Outside its loops only the caller works.
  const int64_t alone = std::max<int64_t>(0, own - regions_) * (current_pool()->threads() - 1);
  totals.idle.fetch_add(idle_ + alone, std::memory_order_relaxed);
  totals.bytes.fetch_add(bytes_, std::memory_order_relaxed);
  if (rows_ > 0) mark_step(rows_, end);
}

}  // namespace chatspace
