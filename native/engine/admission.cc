// SPDX-License-Identifier: Apache-2.0
// Who runs, with which cache blocks. Age decides: an older request that waits for room gets it from
// younger ones as soon as theirs suffices, and the oldest never gives anything up, so each is served
// within a bounded number of steps. In the meantime younger ones may use what would lie idle.
#include "engine/engine.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {
namespace {

// Requests looked at beyond the first one that has to wait.
constexpr int64_t kLookAhead = 16;

bool yields(const Sequence& holder, const Sequence& wanting) { return holder.paused() || holder.id > wanting.id; }

bool older(const std::unique_ptr<Sequence>& a, int64_t id) { return a->id < id; }

int64_t blocks_of(int64_t positions) { return (positions + kBlockTokens - 1) / kBlockTokens; }

}  // namespace

int64_t Engine::blocks_now(const Sequence& sequence) { return blocks_of(sequence.length()); }

int64_t Engine::most_positions(const Sequence& sequence) const {
  // The last generated token is never fed back, so it needs no place.
  const int64_t wanted = sequence.prompt + std::max<int64_t>(sequence.spec.max_tokens, 1) - 1;
  const int64_t context = decoder_->info().context_length;
  return context > 0 ? std::max(sequence.prompt, std::min(wanted, context)) : wanted;
}

int64_t Engine::most_blocks(const Sequence& sequence) const { return blocks_of(most_positions(sequence)); }

size_t Engine::places() const { return static_cast<size_t>(std::min(options_.max_batch, options_.token_budget)); }

size_t Engine::active() const {
  return static_cast<size_t>(
      std::count_if(running_.begin(), running_.end(), [](const auto& sequence) { return !sequence->paused(); }));
}

Sequence* Engine::victim_for(const Sequence& wanting) const {
  const auto paused = std::find_if(running_.rbegin(), running_.rend(), [&](const auto& sequence) {
    return sequence->paused() && sequence->id != wanting.id;
  });
  if (paused != running_.rend()) return paused->get();
  return running_.empty() || running_.back()->id <= wanting.id ? nullptr : running_.back().get();
}

void Engine::admit() {
  int64_t refused = 0;
  for (size_t i = 0; i < waiting_.size() && refused < kLookAhead;) {
    Sequence& next = *waiting_[i];
    if (finished_.count(next.id) != 0 || next.paused()) {
      ++i;
      continue;
    }
    const Failure failure = prepare(next);
    if (failure) fail(next, failure.code, failure.message, failure.details);
    if (failure || !start(next)) {
      refused += failure ? 0 : 1;
      ++i;
      continue;
    }
    if (next.started_step < 0) {
      next.started = Clock::now();
      next.started_step = steps_;
    }
    // start() may have put others back, before this one too.
    const auto at = std::lower_bound(waiting_.begin(), waiting_.end(), next.id, older);
    std::unique_ptr<Sequence> taken = std::move(*at);
    i = static_cast<size_t>(waiting_.erase(at) - waiting_.begin());
    running_.insert(std::lower_bound(running_.begin(), running_.end(), taken->id, older), std::move(taken));
  }
}

Failure Engine::prepare(Sequence& sequence) {
  if (sequence.prepared) return {};
  sequence.prepared = true;
  return guard([&] {
    SiteTable& sites = decoder_->sites();
    if (!sequence.spec.program.empty()) {
      sequence.program = programs_->share(sequence.spec.program, sites);
      sequence.latches.assign(sequence.program->readings().size(), std::numeric_limits<float>::quiet_NaN());
      sequence.spec.program = {};  // its vectors are held once, by the programs that use them
    }
    prepare_captures(sequence);
    sequence.needed = sequence.first_needed();
    const int64_t need = most_blocks(sequence);
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
  for (const Capture& capture : sequence.captures) sequence.row_bytes += capture.pooled() ? 0 : capture.row_bytes();
  expect_captures(sequence);
}

// Memory that is reserved and not used costs address space alone, so the most that can come is asked for,
// within reason; a stream holds one chunk, or what one step of the prompt makes.
void Engine::expect_captures(Sequence& sequence) {
  constexpr int64_t kGenerated = 512;
  if (sequence.captures.empty() || sequence.row_bytes == 0) return;
  const int64_t left = most_positions(sequence) - sequence.settled;
  int64_t rows = std::min(left, std::max<int64_t>(0, sequence.prompt - sequence.settled) + kGenerated);
  if (sequence.spec.stream) {
    rows = std::min(rows, std::max(sequence.spec.chunk_bytes / sequence.row_bytes + 1,
                                   std::min(sequence.prompt - sequence.settled, options_.token_budget)));
  }
  for (Capture& capture : sequence.captures) {
    if (!capture.scope().has_positions) capture.expect(rows);
  }
}

int64_t Engine::reserve() const {
  return std::count_if(running_.begin(), running_.end(), [this](const auto& sequence) {
    return static_cast<int64_t>(sequence->blocks.size()) < most_blocks(*sequence);
  });
}

// Whether the request would have its place and `need` blocks if all that yield to it gave theirs up.
bool Engine::displacing_suffices(const Sequence& sequence, int64_t need) const {
  std::unordered_map<int32_t, int64_t> uses;
  size_t stay = 0;
  int64_t room = blocks_->available();
  for (const auto& each : running_) {
    if (yields(*each, sequence)) {
      for (int32_t block : each->blocks) uses[block] += 1;
      continue;
    }
    ++stay;
    if (static_cast<int64_t>(each->blocks.size()) < most_blocks(*each)) --room;
  }
  for (const auto& [block, count] : uses) room += blocks_->users(block) == count ? 1 : 0;
  return stay < places() && need <= room;
}

bool Engine::start(Sequence& sequence) {
  if (blocks_->total() == 0) return active() < places();
  const bool displaces = victim_for(sequence) != nullptr;
  if (active() >= places() && !displaces) return false;

  share_prefix(sequence);
  int32_t tail = sequence.blocks.size() == sequence.tail_block() ? find_tail(sequence) : -1;
  const auto drop_tail = [&] {
    if (tail < 0) return;
    std::vector<int32_t> one{tail};
    blocks_->release(one);
    tail = -1;
  };
  const int64_t need = blocks_now(sequence) - static_cast<int64_t>(sequence.blocks.size());
  const auto fits = [&] {
    return active() < places() && need + reserve() <= blocks_->available();
  };
  if (!fits()) drop_tail();  // it may stand in the very block that is wanted
  if (!fits() && !(displaces && displacing_suffices(sequence, need))) {
    blocks_->release(sequence.blocks);
    return false;
  }
  while (!fits()) preempt(*victim_for(sequence));
  if (sequence.spec.reuse) {
    book_.cache_lookups += sequence.needed / kBlockTokens + (sequence.tail_rows() > 0 ? 1 : 0);
  }
  book_.cache_hits += static_cast<int64_t>(sequence.blocks.size());
  const int64_t before = sequence.reused_tokens;
  sequence.published = sequence.blocks.size();
  sequence.adopt(static_cast<int64_t>(sequence.blocks.size()) * kBlockTokens);
  const std::vector<int32_t> fresh = blocks_->take(need);
  sequence.blocks.insert(sequence.blocks.end(), fresh.begin(), fresh.end());
  if (tail >= 0) copy_tail(sequence, tail);
  book_.cached_tokens += sequence.reused_tokens - before;
  return true;
}

void Engine::preempt(Sequence& sequence) {
  const auto at = std::lower_bound(running_.begin(), running_.end(), sequence.id, older);
  std::unique_ptr<Sequence> taken = std::move(*at);
  running_.erase(at);
  blocks_->release(taken->blocks);
  taken->rewind();
  taken->result.preemptions += 1;
  book_.preemptions += 1;
  waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), taken->id, older), std::move(taken));
}

void Engine::grow() {
  if (blocks_->total() == 0) return;
  for (size_t i = 0; i < running_.size();) {
    Sequence& sequence = *running_[i];
    const bool rests = finished_.count(sequence.id) != 0 || sequence.paused();
    if (rests || static_cast<int64_t>(sequence.blocks.size()) >= blocks_now(sequence)) {
      ++i;
    } else if (blocks_->available() > 0) {
      sequence.blocks.push_back(blocks_->take(1).front());
    } else {
      Sequence* victim = victim_for(sequence);
      preempt(victim == nullptr ? sequence : *victim);
      i = 0;  // the list has changed; whoever has enough is passed over
    }
  }
}

}  // namespace chatspace
