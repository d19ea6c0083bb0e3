// SPDX-License-Identifier: Apache-2.0
// One step: which rows, their tables, the forward.
#include "engine/engine.h"

#include <algorithm>

#include "kernels/profile.h"

namespace chatspace {

void Engine::add_part(Sequence& sequence, int64_t count, StepRows& rows, std::vector<Part>& parts,
                      std::vector<int64_t>& logit_rows) {
  const bool cached = decoder_->info().cached;
  const int64_t first = cached ? sequence.computed : 0;
  const int64_t end = sequence.computed + count;
  const int64_t first_row = static_cast<int64_t>(rows.tokens.size());
  const int64_t again = std::min(sequence.settled, end) - first;
  Part part{&sequence, end - first, again, end, static_cast<int64_t>(logit_rows.size()), 0};
  for (int64_t position = first; position < end; ++position) {
    const int64_t row = first_row + position - first;
    rows.tokens.push_back(sequence.tokens[static_cast<size_t>(position)]);
    rows.positions.push_back(static_cast<int32_t>(position));
    rows.row_sequence.push_back(static_cast<int32_t>(parts.size()));
    const bool last = position + 1 == sequence.length();
    const bool prompt_row = position < sequence.prompt && position >= sequence.settled && sequence.wants_prompt_rows();
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

std::vector<Engine::Chunk> Engine::plan_prompts(int64_t budget, size_t most_chunks) {
  const bool chunked = decoder_->info().cached && decoder_->info().own;
  std::vector<Sequence*> queue;  // by age
  for (auto& sequence : running_) {
    if (finished_.count(sequence->id) == 0 && !sequence->paused() && sequence->filling()) queue.push_back(sequence.get());
  }
  if (queue.empty()) return {};
  const Sequence* oldest = queue.front();
  const auto left = [](const Sequence* s) { return s->length() - s->computed; };
  const auto most = [&](const Sequence* s) {
    int64_t rows = left(s);
    // Logits of every row are wide: short chunks keep them in bounded memory.
    if (s->wants_prompt_rows() && s->settled < s->prompt) rows = std::min<int64_t>(rows, 64);
    // Rows that are new are captured; a stream of them is bounded.
    const int64_t again = std::max<int64_t>(0, s->settled - s->computed);
    return rows <= again ? rows : again + std::min(rows - again, s->streamable());
  };
  // Soonest done first, and of those equally long the oldest; half of the budget waits for the oldest of all.
  std::stable_sort(queue.begin(), queue.end(), [&](auto* a, auto* b) { return left(a) < left(b); });
  int64_t held = chunked ? (budget + 1) / 2 : 0;
  std::vector<Chunk> chunks;
  for (Sequence* sequence : queue) {
    if (sequence == oldest) held = 0;
    if (chunks.size() == most_chunks) break;
    if (chunked && waits_for_prefix(*sequence, chunks)) continue;
    const int64_t rows = chunked ? std::min(most(sequence), budget - held) : left(sequence);
    if (rows <= 0) continue;
    chunks.push_back({sequence, rows});
    budget -= rows;
  }
  // What was held back for one that waits for a neighbour.
  for (Chunk& chunk : chunks) {
    if (!chunked || budget <= 0) break;
    const int64_t more = std::min(most(chunk.sequence) - chunk.rows, budget);
    chunk.rows += more;
    budget -= more;
  }
  return chunks;
}

void Engine::plan(StepRows& rows, std::vector<Part>& parts, std::vector<int64_t>& logit_rows) {
  grow();
  const size_t limit = places();
  if (decoder_->max_sequences() == 1) {
    // One sequence a step: take turns.
    Sequence* next = nullptr;
    for (auto& sequence : running_) {
      if (finished_.count(sequence->id) != 0 || sequence->paused()) continue;
      if (next == nullptr || sequence->served_step < next->served_step) next = sequence.get();
    }
    if (next != nullptr) add_part(*next, next->length() - next->computed, rows, parts, logit_rows);
    return;
  }
  // Those that generate first, so that a long prompt never holds them up by more than one budget.
  for (auto& sequence : running_) {
    if (finished_.count(sequence->id) != 0 || sequence->paused() || sequence->filling()) continue;
    if (parts.size() == limit) break;
    add_part(*sequence, 1, rows, parts, logit_rows);
  }
  const int64_t budget = options_.token_budget - static_cast<int64_t>(rows.tokens.size());
  for (const Chunk& chunk : plan_prompts(budget, limit - parts.size())) {
    add_part(*chunk.sequence, chunk.rows, rows, parts, logit_rows);
  }
}

void Engine::note_step(const std::vector<Part>& parts, double seconds) {
  StepTally tally;
  tally.sequences = static_cast<int64_t>(parts.size());
  tally.seconds = seconds;
  for (const Part& part : parts) {
    Sequence& sequence = *part.sequence;
    sequence.served_step = steps_;
    const int64_t first = part.end - part.rows + part.fresh;  // of the rows that are new
    const int64_t prompt = std::max<int64_t>(0, std::min(part.end, sequence.prompt) - first);
    tally.rows += part.rows;
    tally.recomputed += part.fresh;
    tally.prompt += prompt;
    tally.generated += part.rows - part.fresh - prompt;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  tally_.add(tally, Clock::now());
}

bool Engine::step() {
  ProfileScope profile(Operator::kStep);
  StepRows rows;
  std::vector<Part> parts;
  std::vector<int64_t> logit_rows;
  plan(rows, parts, logit_rows);
  if (parts.empty()) return false;
  profile.step_of(rows.tokens.size());

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

  const auto begin = Clock::now();
  at::Tensor logits;
  const Failure failure = guard([&] {
    tables_->begin(static_cast<int64_t>(rows.tokens.size()), std::move(slices));
    {
      const ProfileScope forward(Operator::kForward);
      logits = decoder_->forward(rows, logit_rows);
    }
    tables_->end();
  });
  steps_ += 1;
  book_.graphs = decoder_->graph_counts();
  book_.flash_layers = decoder_->flash_layers();
  note_step(parts, std::chrono::duration<double>(Clock::now() - begin).count());
  if (failure) {
    // The step's requests fail together: which row broke it cannot be told apart.
    tables_->cancel();
    for (const Part& part : parts) fail(*part.sequence, failure.code, failure.message, failure.details);
    return true;
  }
  const float* values = logits.const_data_ptr<float>();
  const int64_t vocab = logits.size(-1);
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
