// SPDX-License-Identifier: Apache-2.0
// What the steps so far add up to, and how fast tokens went by in the last seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

#include "engine/request.h"

namespace chatspace {

struct StepTally {
  int64_t rows = 0;
  int64_t sequences = 0;
  int64_t prompt = 0;      // rows of prompts, computed for the first time
  int64_t generated = 0;   // rows of generated tokens, likewise
  int64_t recomputed = 0;  // rows that were computed before
  double seconds = 0;
};

class Tally {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit Tally(Time start) : start_(start) {}

  void add(const StepTally& step, Time end);
  // Sets the fields of `stats` that are known here.
  void write(EngineStats& stats, Time now) const;

 private:
  // A quarter of a second of the window.
  struct Slot {
    int64_t index;
    int64_t prompt;
    int64_t generated;
  };
  int64_t slot_of(Time time) const;

  Time start_;
  int64_t steps_ = 0;
  StepTally last_;
  StepTally total_;
  int64_t largest_ = 0;
  std::deque<Slot> window_;
};

}  // namespace chatspace
