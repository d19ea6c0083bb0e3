// SPDX-License-Identifier: Apache-2.0
// One step: which rows, their tables, the forward.
#include "engine/engine.h"

#include <algorithm>

namespace chatspace {

void Engine::add_part(Sequence& sequence, int64_t count, StepRows& rows, std::vector<Part>& parts,
                      std::vector<int64_t>& logit_rows) {
  const bool cached = decoder_->info().cached;
  const int64_t first = cached ? sequence.computed : 0;
  const int64_t end = sequence.computed + count;
  const int64_t first_row = static_cast<int64_t>(rows.tokens.size());
  Part part{&sequence, end - first, sequence.computed - first, static_cast<int64_t>(logit_rows.size()), 0};
  for (int64_t position = first; position < end; ++position) {
    const int64_t row = first_row + position - first;
    rows.tokens.push_back(sequence.tokens[static_cast<size_t>(position)]);
    rows.positions.push_back(static_cast<int32_t>(position));
    rows.row_sequence.push_back(static_cast<int32_t>(parts.size()));
    const bool last = position + 1 == static_cast<int64_t>(sequence.tokens.size());
    const bool prompt_row = position < sequence.prompt && position >= sequence.computed && sequence.wants_prompt_rows();
    if (last || prompt_row) logit_rows.push_back(row);
  }
  part.logits = static_cast<int64_t>(logit_rows.size()) - part.first_logit;
  const int64_t hidden = decoder_->info().hidden_size;
  for (size_t i = 0; i < sequence.spec.given_rows.size(); ++i) {
    const int64_t position = sequence.spec.given_rows[i];
    if (position < first || position >= end) continue;
    rows.given_rows.push_back(first_row + position - first);
    const auto from = sequence.spec.given.begin() + static_cast<int64_t>(i) * hidden;
    rows.given.insert(rows.given.end(), from, from + hidden);
  }
  rows.sequences.push_back({sequence.id, first_row, part.rows, sequence.blocks});
  parts.push_back(part);
}

void Engine::plan(StepRows& rows, std::vector<Part>& parts, std::vector<int64_t>& logit_rows) {
  const size_t limit = static_cast<size_t>(decoder_->max_sequences());
  const bool chunked = decoder_->info().cached && decoder_->info().own;
  // Those that generate first, so that a long prompt never holds them up by more than one budget.
  for (auto& sequence : running_) {
    if (finished_.count(sequence->id) != 0 || sequence->in_prompt() || parts.size() >= limit) continue;
    if (sequence->paused()) continue;
    add_part(*sequence, static_cast<int64_t>(sequence->tokens.size()) - sequence->computed, rows, parts, logit_rows);
  }
  for (auto& sequence : running_) {
    if (finished_.count(sequence->id) != 0 || !sequence->in_prompt() || parts.size() >= limit) continue;
    if (sequence->paused()) continue;
    if (chunked && waits_for_prefix(*sequence, parts)) continue;
    int64_t count = sequence->prompt - sequence->computed;
    if (chunked) {
      count = std::min(count, options_.token_budget - static_cast<int64_t>(rows.tokens.size()));
      // Logits of every row are wide: short chunks keep them in bounded memory.
      if (sequence->wants_prompt_rows()) count = std::min<int64_t>(count, 64);
      if (count > 0) count = std::min(count, sequence->streamable());
    }
    if (count <= 0) break;
    add_part(*sequence, count, rows, parts, logit_rows);
  }
  if (limit == 1 && parts.size() == 1 && running_.size() > 1) {
    // One sequence a step: take turns.
    std::rotate(running_.begin(), running_.begin() + 1, running_.end());
  }
}

bool Engine::step() {
  StepRows rows;
  std::vector<Part> parts;
  std::vector<int64_t> logit_rows;
  plan(rows, parts, logit_rows);
  if (parts.empty()) return false;

  std::vector<StepSlice> slices;
  for (const Part& part : parts) {
    Sequence& sequence = *part.sequence;
    StepSlice slice;
    slice.first_row = rows.sequences[slices.size()].first_row;
    slice.count = part.rows;
    slice.first_position = rows.positions[static_cast<size_t>(slice.first_row)];
    slice.fresh = part.fresh;
    slice.prompt = static_cast<int32_t>(sequence.prompt);
    slice.tokens = rows.tokens.data() + slice.first_row;
    slice.program = sequence.program.get();
    slice.captures = &sequence.captures;
    slice.probes = &sequence.probes;
    slice.latches = &sequence.latches;
    slice.counters = &sequence.counters;
    slices.push_back(slice);
  }

  at::Tensor logits;
  const Failure failure = guard([&] {
    tables_->begin(static_cast<int64_t>(rows.tokens.size()), std::move(slices));
    logits = decoder_->forward(rows, logit_rows);
    tables_->end();
  });
  if (failure) {
    // The step's requests fail together: which row broke it cannot be told apart.
    tables_->cancel();
    for (const Part& part : parts) fail(*part.sequence, failure.code, failure.message, failure.details);
    return true;
  }
  const float* values = logits.const_data_ptr<float>();
  const int64_t vocab = logits.size(-1);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.steps += 1;
    for (const Part& part : parts) {
      const bool prompt = part.sequence->in_prompt();
      // Told once, with the first rows that the request computes itself.
      if (prompt && part.sequence->computed == part.sequence->reused_tokens) {
        stats_.cached_tokens += part.sequence->reused_tokens;
      }
      (prompt ? stats_.prompt_tokens : stats_.generated_tokens) += part.rows - part.fresh;
    }
  }
  for (const Part& part : parts) {
    const Failure broken = guard([&] {
      take(part, values + part.first_logit * vocab);
      send_captures(*part.sequence, false);
    });
    if (broken) fail(*part.sequence, broken.code, broken.message, broken.details);
  }
  return true;
}

}  // namespace chatspace
