// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <limits>

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {

Engine::Engine(LoadOptions options, Loaded loaded)
    : options_(std::move(options)), loaded_(std::move(loaded)), thread_([this] { run(); }) {}

Engine::~Engine() { shutdown(); }

int64_t Engine::submit(RequestSpec spec, std::shared_ptr<Sink> sink) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t id = next_id_++;
  if (stopping_ || dead_) {
    sink->on_error("ERR_DISPOSED", "the model is disposed", "{}");
    return id;
  }
  incoming_.push_back(std::make_unique<Sequence>(id, std::move(spec), std::move(sink), token_bytes_));
  stats_.requests += 1;
  wake_.notify_one();
  return id;
}

void Engine::abort(int64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  aborts_.insert(id);
  wake_.notify_one();
}

void Engine::set_token_bytes(std::shared_ptr<const TokenBytes> bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  token_bytes_ = std::move(bytes);
}

EngineStats Engine::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void Engine::shutdown() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  std::lock_guard<std::mutex> join(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Engine::run() {
  {
    c10::InferenceMode inference;
    // Eager: the executor's optimiser stays off, the graph runs as it was written (and cut).
    torch::jit::GraphOptimizerEnabledGuard eager(false);
    pool_ = std::make_unique<ThreadPool>(options_.threads);
    PoolScope scope(pool_.get());
    at::set_num_threads(options_.threads);
    if (load()) serve();
    // Tensors die here, on the thread that made them.
    running_.clear();
    waiting_.clear();
    tables_.reset();
    decoder_.reset();
  }
  pool_.reset();
}

bool Engine::load() {
  const Failure failure = guard([this] {
    decoder_ = load_decoder(options_);
    blocks_ = std::make_unique<BlockStore>(decoder_->cache_blocks());
    tables_ = std::make_unique<StepTables>(decoder_->sites(), decoder_->device(),
                                           [this](const at::Tensor& rows) { return decoder_->lens(rows); });
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.weight_bytes = decoder_->info().weight_bytes;
    stats_.cache_blocks = blocks_->total();
    stats_.cache_bytes = blocks_->total() * decoder_->cache_block_bytes();
  });
  if (failure) {
    std::lock_guard<std::mutex> lock(mutex_);
    dead_ = true;
  }
  loaded_(failure ? nullptr : decoder_.get(), failure);
  return !failure;
}

bool Engine::wait_for_work() {
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [this] {
    return stopping_ || !incoming_.empty() || !waiting_.empty() || !running_.empty();
  });
  for (auto& sequence : incoming_) waiting_.push_back(std::move(sequence));
  incoming_.clear();
  for (auto* list : {&waiting_, &running_}) {
    for (auto& sequence : *list) {
      if (stopping_ || aborts_.count(sequence->id) != 0) finish(*sequence, "aborted");
    }
  }
  aborts_.clear();
  return !stopping_;
}

void Engine::serve() {
  bool alive = true;
  while (alive) {
    alive = wait_for_work();
    drop_finished();
    if (!alive) break;
    admit();
    if (!running_.empty()) step();
    drop_finished();
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.running = static_cast<int64_t>(running_.size());
    stats_.waiting = static_cast<int64_t>(waiting_.size());
    stats_.cache_blocks_used = blocks_->used();
  }
  std::lock_guard<std::mutex> lock(mutex_);
  dead_ = true;
  for (auto& sequence : incoming_) finish(*sequence, "aborted");
  incoming_.clear();
}

int64_t Engine::longest(const Sequence& sequence) const {
  const int64_t wanted = sequence.prompt + std::max<int64_t>(sequence.spec.max_tokens, 0);
  const int64_t context = decoder_->info().context_length;
  return context > 0 ? std::min(wanted, context) : wanted;
}

int64_t Engine::blocks_for(const Sequence& sequence) const {
  // The last generated token is never fed back, so it needs no place.
  const int64_t positions = std::max(sequence.prompt, longest(sequence) - 1);
  return (positions + kBlockTokens - 1) / kBlockTokens;
}

void Engine::admit() {
  const size_t limit = static_cast<size_t>(std::min(options_.max_batch, options_.token_budget));
  size_t taken = 0;
  for (; taken < waiting_.size() && running_.size() < limit; ++taken) {
    Sequence& next = *waiting_[taken];
    if (const Failure failure = prepare(next)) {
      fail(next, failure.code, failure.message, failure.details);
      continue;
    }
    if (!take_blocks(next)) break;  // in order: nobody overtakes, so nobody starves
    next.started = Clock::now();
    running_.push_back(std::move(waiting_[taken]));
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<int64_t>(taken));
}

Failure Engine::prepare(Sequence& sequence) {
  if (sequence.prepared) return {};
  sequence.prepared = true;
  return guard([&] {
    SiteTable& sites = decoder_->sites();
    if (!sequence.spec.program.empty()) {
      sequence.program = Program::compile(sequence.spec.program, sites, decoder_->device());
      sequence.latches.assign(sequence.program->readings().size(), std::numeric_limits<float>::quiet_NaN());
    }
    prepare_captures(sequence);
    sequence.needed = sequence.first_needed();
    const int64_t need = blocks_for(sequence);
    if (blocks_->total() > 0 && need > blocks_->total()) {
      throw Error("ERR_CACHE_MEMORY",
                  text("the request needs ", need * kBlockTokens, " positions of KV cache, the model has ",
                       blocks_->total() * kBlockTokens, " (cacheBytes ",
                       blocks_->total() * decoder_->cache_block_bytes(), ")"));
    }
  });
}

void Engine::prepare_captures(Sequence& sequence) {
  const SiteTable& sites = decoder_->sites();
  const ModelInfo& info = decoder_->info();
  const auto add = [&](std::vector<Capture>& list, const CaptureSpec& spec) {
    const int64_t site = sites.require(spec.site);
    const int64_t width = sites.at(site).width;
    if (spec.reduce == Reduce::kLens && (!info.own || width != info.hidden_size)) {
      throw Error("ERR_REDUCER", text("capture at ", spec.site, ": expected a site of the residual stream of an archive "
                                      "of our own for the logit lens"));
    }
    list.push_back(Capture::make(spec, site, width, info.vocab_size, decoder_->device()));
  };
  for (const CaptureSpec& capture : sequence.spec.captures) add(sequence.captures, capture);
  for (const CaptureSpec& probe : sequence.spec.probes) add(sequence.probes, probe);
}

bool Engine::take_blocks(Sequence& sequence) {
  if (blocks_->total() == 0) return true;
  share_prefix(sequence);
  const int64_t need = blocks_for(sequence) - static_cast<int64_t>(sequence.blocks.size());
  if (need > blocks_->available()) {
    blocks_->release(sequence.blocks);
    sequence.computed = 0;
    sequence.published = 0;
    return false;
  }
  for (size_t index = 0; index < sequence.blocks.size(); ++index) sequence.adopt(index);
  const std::vector<int32_t> fresh = blocks_->take(need);
  sequence.blocks.insert(sequence.blocks.end(), fresh.begin(), fresh.end());
  return true;
}

void Engine::share_prefix(Sequence& sequence) {
  if (!sequence.spec.reuse) return;
  const size_t whole = static_cast<size_t>(sequence.needed / kBlockTokens);
  while (sequence.blocks.size() < whole) {
    const size_t index = sequence.blocks.size();
    const int64_t* tokens = sequence.tokens.data() + static_cast<int64_t>(index) * kBlockTokens;
    const int32_t block = blocks_->share(sequence.block_key(index), tokens);
    if (block < 0) break;
    sequence.blocks.push_back(block);
  }
  sequence.computed = static_cast<int64_t>(sequence.blocks.size()) * kBlockTokens;
  sequence.published = sequence.blocks.size();
}

// A second request with the same prefix waits a step rather than computing it beside the first one; it
// joins the blocks as they are published.
bool Engine::waits_for_prefix(Sequence& sequence, const std::vector<Part>& parts) {
  if (!sequence.spec.reuse || blocks_->total() == 0) return false;
  const size_t whole = static_cast<size_t>(sequence.needed / kBlockTokens);
  if (sequence.computed % kBlockTokens != 0) return false;
  size_t index = static_cast<size_t>(sequence.computed / kBlockTokens);
  for (; index < whole; ++index) {
    const int64_t* tokens = sequence.tokens.data() + static_cast<int64_t>(index) * kBlockTokens;
    const int32_t block = blocks_->share(sequence.block_key(index), tokens);
    if (block < 0) break;
    std::vector<int32_t> own{sequence.blocks[index]};
    blocks_->release(own);
    sequence.blocks[index] = block;
    sequence.adopt(index);
    sequence.computed += kBlockTokens;
    sequence.published = index + 1;
  }
  if (index >= whole) return false;
  return std::any_of(parts.begin(), parts.end(), [&](const Part& part) {
    Sequence& other = *part.sequence;
    const int64_t end = static_cast<int64_t>(index + 1) * kBlockTokens;
    const int64_t planned = other.computed + part.rows - part.fresh;
    return other.in_prompt() && other.computed < end && end <= planned && end <= other.prompt &&
           other.block_key(index) == sequence.block_key(index);
  });
}

void Engine::publish(Sequence& sequence) {
  if (blocks_->total() == 0) return;
  while (static_cast<int64_t>(sequence.published + 1) * kBlockTokens <= sequence.computed) {
    const size_t index = sequence.published++;
    blocks_->publish(sequence.blocks[index], sequence.block_key(index),
                     sequence.tokens.data() + static_cast<int64_t>(index) * kBlockTokens);
  }
}

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
    add_part(*sequence, static_cast<int64_t>(sequence->tokens.size()) - sequence->computed, rows, parts, logit_rows);
  }
  for (auto& sequence : running_) {
    if (finished_.count(sequence->id) != 0 || !sequence->in_prompt() || parts.size() >= limit) continue;
    if (chunked && waits_for_prefix(*sequence, parts)) continue;
    int64_t count = sequence->prompt - sequence->computed;
    if (chunked) {
      count = std::min(count, options_.token_budget - static_cast<int64_t>(rows.tokens.size()));
      // Logits of every row are wide: short chunks keep them in bounded memory.
      if (sequence->wants_prompt_rows()) count = std::min<int64_t>(count, 64);
    }
    if (count <= 0) break;
    add_part(*sequence, count, rows, parts, logit_rows);
  }
  if (limit == 1 && parts.size() == 1 && running_.size() > 1) {
    // One sequence a step: take turns.
    std::rotate(running_.begin(), running_.begin() + 1, running_.end());
  }
}

void Engine::step() {
  StepRows rows;
  std::vector<Part> parts;
  std::vector<int64_t> logit_rows;
  plan(rows, parts, logit_rows);
  if (parts.empty()) return;

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
    return;
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
    const Failure broken = guard([&] { take(part, values + part.first_logit * vocab); });
    if (broken) fail(*part.sequence, broken.code, broken.message, broken.details);
  }
}

void Engine::take_prompt_rows(Sequence& sequence, const Part& part, const float* logits) {
  const int64_t vocab = decoder_->info().vocab_size;
  // With every prompt row wanted, the part's logits are its fresh prompt rows in order.
  for (int64_t i = 0; i < part.logits; ++i) {
    const int64_t position = sequence.computed + i;
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
  const bool prompt = sequence.in_prompt();
  if (prompt && sequence.spec.prompt_logprobs && sequence.result.prompt_logprobs.empty()) {
    sequence.result.prompt_logprobs.assign(static_cast<size_t>(sequence.prompt),
                                           std::numeric_limits<float>::quiet_NaN());
  }
  if (prompt && sequence.wants_prompt_rows()) take_prompt_rows(sequence, part, logits);
  sequence.computed += part.rows - part.fresh;
  publish(sequence);
  if (sequence.in_prompt()) return;

  const float* last = logits + (part.logits - 1) * vocab;
  if (prompt && sequence.spec.logits == LogitsWanted::kLast) sequence.result.logits.assign(last, last + vocab);
  if (sequence.spec.max_tokens <= 0) return finish(sequence, "prompt");
  if (prompt) sequence.first_token = Clock::now();
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
      to.push_back({decoder_->sites().at(capture.site()).name, capture.positions(), capture.take_data(),
                    capture.take_indices(), capture.values()});
    }
  };
  collect(sequence.captures, result.captures);
  collect(sequence.probes, result.probes);
  const auto now = Clock::now();
  const auto ms = [](Clock::time_point from, Clock::time_point to) {
    return std::max(0.0, std::chrono::duration<double, std::milli>(to - from).count());
  };
  const bool ran = sequence.started != Clock::time_point{};
  const bool spoke = sequence.first_token != Clock::time_point{};
  result.queued_ms = ms(sequence.submitted, ran ? sequence.started : now);
  result.prompt_ms = ran ? ms(sequence.started, spoke ? sequence.first_token : now) : 0.0;
  result.generate_ms = spoke ? ms(sequence.first_token, now) : 0.0;
  sequence.sink->on_done(std::move(result));
}

void Engine::fail(Sequence& sequence, const std::string& code, const std::string& message,
                  const std::string& details) {
  if (finished_.insert(sequence.id).second) sequence.sink->on_error(code, message, details);
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
}

}  // namespace chatspace
