// SPDX-License-Identifier: Apache-2.0
// Who starts, with which cache blocks: programs compiled, the longest cached prefix shared, blocks taken
// for the longest sequence the request may become.
#include "engine/engine.h"

#include <algorithm>

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {

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
  // Who is paused takes no place in a step, so it keeps nobody waiting.
  size_t active = static_cast<size_t>(std::count_if(running_.begin(), running_.end(),
                                                    [](const auto& sequence) { return !sequence->paused(); }));
  for (; taken < waiting_.size() && active < limit; ++taken) {
    Sequence& next = *waiting_[taken];
    if (const Failure failure = prepare(next)) {
      fail(next, failure.code, failure.message, failure.details);
      continue;
    }
    if (!take_blocks(next)) break;  // in order: nobody overtakes, so nobody starves
    next.started = Clock::now();
    running_.push_back(std::move(waiting_[taken]));
    ++active;
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
  for (const Capture& capture : sequence.captures) sequence.row_bytes += capture.pooled() ? 0 : capture.row_bytes();
  expect_captures(sequence);
}

// Memory that is reserved and not used costs address space alone, so the most that can come is asked for,
// within reason; a stream holds one chunk, or what one step of the prompt makes.
void Engine::expect_captures(Sequence& sequence) {
  constexpr int64_t kGenerated = 512;
  if (sequence.captures.empty() || sequence.row_bytes == 0) return;
  const int64_t left = longest(sequence) - sequence.computed;
  int64_t rows = std::min(left, std::max<int64_t>(0, sequence.prompt - sequence.computed) + kGenerated);
  if (sequence.spec.stream) {
    rows = std::min(rows, std::max(sequence.spec.chunk_bytes / sequence.row_bytes + 1,
                                   std::min(sequence.prompt - sequence.computed, options_.token_budget)));
  }
  for (Capture& capture : sequence.captures) {
    if (!capture.scope().has_positions) capture.expect(rows);
  }
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

}  // namespace chatspace
