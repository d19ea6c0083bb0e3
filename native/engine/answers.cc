// SPDX-License-Identifier: Apache-2.0
// What a step means for each request: tokens, ends, failures.
#include "engine/engine.h"

#include <algorithm>
#include <limits>

#include "errors.h"

namespace chatspace {

void Engine::take_prompt_rows(Sequence& sequence, const Part& part, const float* logits) {
  const int64_t vocab = decoder_->info().vocab_size;
  // With every prompt row wanted, the part's logits are its fresh prompt rows in order.
  for (int64_t i = 0; i < part.logits; ++i) {
    const int64_t position = sequence.settled + i;
    if (position >= sequence.prompt) break;
    const float* row = logits + i * vocab;
    if (sequence.spec.logits == LogitsWanted::kAll) {
      sequence.result.logits.insert(sequence.result.logits.end(), row, row + vocab);
    }
    if (sequence.spec.prompt_logprobs && position + 1 < sequence.prompt) {
      const int64_t next = sequence.tokens[static_cast<size_t>(position + 1)];
      sequence.result.prompt_logprobs[static_cast<size_t>(position + 1)] =
          static_cast<float>(row[next] - log_sum_exp(row, vocab));
    }
  }
}

void Engine::take(const Part& part, const float* logits) {
  Sequence& sequence = *part.sequence;
  const int64_t vocab = decoder_->info().vocab_size;
  // Rows of the prompt that have never been computed before.
  const bool prompt = sequence.settled < sequence.prompt;
  if (prompt && sequence.spec.prompt_logprobs && sequence.result.prompt_logprobs.empty()) {
    sequence.result.prompt_logprobs.assign(static_cast<size_t>(sequence.prompt),
                                           std::numeric_limits<float>::quiet_NaN());
  }
  if (prompt && sequence.wants_prompt_rows()) take_prompt_rows(sequence, part, logits);
  sequence.computed = part.end;
  sequence.settled = std::max(sequence.settled, part.end);
  publish(sequence);
  if (sequence.computed < sequence.length()) return;

  const float* last = logits + (part.logits - 1) * vocab;
  if (prompt && sequence.spec.logits == LogitsWanted::kLast) sequence.result.logits.assign(last, last + vocab);
  if (sequence.spec.max_tokens <= 0) return finish(sequence, "prompt");
  if (sequence.first_token_step < 0) {
    sequence.first_token = Clock::now();
    sequence.first_token_step = steps_;
  }
  generate(sequence, last);
}

bool Engine::generate(Sequence& sequence, const float* logits) {
  const int64_t vocab = decoder_->info().vocab_size;
  const int64_t index = sequence.generated();
  static const std::vector<int32_t> kNone;
  const bool held = index < sequence.spec.min_tokens;
  const int32_t token = sequence.sampler.sample(logits, vocab, index, held ? sequence.spec.stop_ids : kNone);
  sequence.sampler.accept(token);
  sequence.tokens.push_back(token);
  sequence.result.tokens.push_back(token);

  TokenBatch batch;
  batch.tokens.push_back(token);
  if (sequence.spec.logprobs >= 0) {
    const double log_sum = log_sum_exp(logits, vocab);
    batch.logprobs.push_back(static_cast<float>(logits[token] - log_sum));
    if (sequence.spec.logprobs > 0) {
      top_logprobs(logits, vocab, log_sum, sequence.spec.logprobs, batch.top_ids, batch.top_logprobs);
    }
  }
  for (const Capture& probe : sequence.probes) batch.probes.push_back(*probe.newest());
  sequence.sink->on_tokens(std::move(batch));

  const auto& stops = sequence.spec.stop_ids;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    finish(sequence, "stop-id");
    return false;
  }
  const int64_t stop = sequence.stops.push(token);
  if (stop >= 0 && sequence.generated() >= sequence.spec.min_tokens) {
    sequence.result.stop_index = stop;
    finish(sequence, "stop-text");
    return false;
  }
  if (sequence.generated() >= sequence.spec.max_tokens) {
    finish(sequence, "length");
    return false;
  }
  const int64_t context = decoder_->info().context_length;
  if (context > 0 && static_cast<int64_t>(sequence.tokens.size()) > context) {
    finish(sequence, "context");
    return false;
  }
  return true;
}

void Engine::finish(Sequence& sequence, const char* reason) {
  if (!finished_.insert(sequence.id).second) return;
  Result& result = sequence.result;
  result.finish = reason;
  result.counters = sequence.counters;
  result.prompt_tokens = sequence.prompt;
  result.cached_tokens = sequence.reused_tokens;
  const auto collect = [this](std::vector<Capture>& from, std::vector<CaptureResult>& to) {
    for (Capture& capture : from) {
      to.push_back({decoder_->sites().at(capture.site()).name, capture.take(), capture.values()});
    }
  };
  if (sequence.spec.stream) {
    // Of a request that was ended before its time nobody waits for the rest.
    if (result.finish != "aborted") send_captures(sequence, true);
  } else {
    collect(sequence.captures, result.captures);
  }
  collect(sequence.probes, result.probes);
  const auto now = Clock::now();
  const auto ms = [](Clock::time_point from, Clock::time_point to) {
    return std::max(0.0, std::chrono::duration<double, std::milli>(to - from).count());
  };
  const bool ran = sequence.started_step >= 0;
  const bool spoke = sequence.first_token_step >= 0;
  result.queued_ms = ms(sequence.submitted, ran ? sequence.started : now);
  result.prompt_ms = ran ? ms(sequence.started, spoke ? sequence.first_token : now) : 0.0;
  result.generate_ms = spoke ? ms(sequence.first_token, now) : 0.0;
  result.queued_steps = (ran ? sequence.started_step : steps_) - sequence.submitted_step;
  result.prompt_steps = ran ? (spoke ? sequence.first_token_step : steps_) - sequence.started_step : 0;
  result.generate_steps = spoke ? steps_ - sequence.first_token_step : 0;
  endings_.push_back({sequence.sink, std::move(result), {}});
}

void Engine::send_captures(Sequence& sequence, bool last) {
  if (!sequence.spec.stream || (!last && sequence.held_bytes() < std::max<int64_t>(1, sequence.spec.chunk_bytes))) {
    return;
  }
  CaptureBatch batch;
  for (Capture& capture : sequence.captures) {
    if (capture.pooled() && !last) continue;
    CaptureRows rows = capture.take();
    if (rows.positions.empty()) continue;
    batch.bytes += static_cast<int64_t>(rows.positions.size()) * capture.row_bytes();
    batch.captures.push_back({decoder_->sites().at(capture.site()).name, std::move(rows), capture.values()});
  }
  if (batch.captures.empty()) return;
  sequence.unacknowledged += batch.bytes;
  if (!last) expect_captures(sequence);
  sequence.sink->on_captures(std::move(batch));
}

void Engine::fail(Sequence& sequence, const std::string& code, const std::string& message,
                  const std::string& details) {
  if (finished_.insert(sequence.id).second) endings_.push_back({sequence.sink, {}, {code, message, details}});
}

void Engine::drop_finished() {
  if (finished_.empty()) return;
  const auto done = [this](std::unique_ptr<Sequence>& sequence) {
    if (sequence == nullptr || finished_.count(sequence->id) == 0) return false;
    if (blocks_ != nullptr) blocks_->release(sequence->blocks);
    decoder_->release(sequence->id);
    return true;
  };
  for (auto* list : {&waiting_, &running_}) {
    list->erase(std::remove_if(list->begin(), list->end(), done), list->end());
  }
  finished_.clear();
  if (programs_ != nullptr) programs_->sweep();
}

void Engine::close_step() {
  drop_finished();
  book_.running = static_cast<int64_t>(running_.size());
  book_.waiting = static_cast<int64_t>(waiting_.size());
  book_.programs = programs_->size();
  book_.cache_blocks_used = blocks_->used();
  book_.cache_blocks_kept = blocks_->kept();
  book_.cache_evictions = blocks_->evictions();
  book_.capture_bytes = 0;
  for (const auto* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) {
      for (const Capture& capture : sequence->captures) book_.capture_bytes += capture.held_bytes();
      for (const Capture& probe : sequence->probes) book_.capture_bytes += probe.held_bytes();
    }
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_ = book_;
  }
  // Whoever hears the end finds its blocks free.
  for (Ending& ending : endings_) {
    if (ending.failure) {
      ending.sink->on_error(ending.failure.code, ending.failure.message, ending.failure.details);
    } else {
      ending.sink->on_done(std::move(ending.result));
    }
  }
  endings_.clear();
}

}  // namespace chatspace
