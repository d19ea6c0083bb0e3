// SPDX-License-Identifier: Apache-2.0
#include "engine/tally.h"

#include <algorithm>

namespace chatspace {
namespace {

constexpr double kSlotSeconds = 0.25;
constexpr int64_t kSlots = 40;  // ten seconds

double seconds_between(Tally::Time from, Tally::Time to) { return std::chrono::duration<double>(to - from).count(); }

}  // namespace

int64_t Tally::slot_of(Time time) const { return static_cast<int64_t>(seconds_between(start_, time) / kSlotSeconds); }

void Tally::add(const StepTally& step, Time end) {
  steps_ += 1;
  last_ = step;
  largest_ = std::max(largest_, step.rows);
  total_.rows += step.rows;
  total_.sequences += step.sequences;
  total_.prompt += step.prompt;
  total_.generated += step.generated;
  total_.recomputed += step.recomputed;
  total_.seconds += step.seconds;
  const int64_t slot = slot_of(end);
  if (window_.empty() || window_.back().index != slot) window_.push_back({slot, 0, 0});
  window_.back().prompt += step.prompt;
  window_.back().generated += step.generated;
  while (window_.front().index <= slot - kSlots) window_.pop_front();
}

void Tally::write(EngineStats& stats, Time now) const {
  stats.steps = steps_;
  stats.prompt_tokens = total_.prompt;
  stats.generated_tokens = total_.generated;
  stats.recomputed_tokens = total_.recomputed;
  stats.step_rows = last_.rows;
  stats.step_sequences = last_.sequences;
  stats.largest_step_rows = largest_;
  stats.step_seconds = total_.seconds;
  if (steps_ > 0) {
    stats.mean_step_rows = static_cast<double>(total_.rows) / static_cast<double>(steps_);
    stats.mean_step_sequences = static_cast<double>(total_.sequences) / static_cast<double>(steps_);
  }
  int64_t prompt = 0;
  int64_t generated = 0;
  const int64_t oldest = slot_of(now) - kSlots;
  for (const Slot& slot : window_) {
    if (slot.index <= oldest) continue;
    prompt += slot.prompt;
    generated += slot.generated;
  }
  const double span = std::min(seconds_between(start_, now), static_cast<double>(kSlots) * kSlotSeconds);
  if (span <= 0) return;
  stats.prompt_tokens_per_second = static_cast<double>(prompt) / span;
  stats.generated_tokens_per_second = static_cast<double>(generated) / span;
}

}  // namespace chatspace
