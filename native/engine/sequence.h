// SPDX-License-Identifier: Apache-2.0
// One request while it lives in the engine. Belongs to the executor thread.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/stop_matcher.h"
#include "steering/hash128.h"

namespace chatspace {

using Clock = std::chrono::steady_clock;

struct Sequence {
  Sequence(int64_t id_, RequestSpec spec_, std::shared_ptr<Sink> sink_, std::shared_ptr<const TokenBytes> bytes)
      : id(id_),
        spec(std::move(spec_)),
        sink(std::move(sink_)),
        tokens(spec.tokens),
        prompt(static_cast<int64_t>(spec.tokens.size())),
        sampler(spec.sampling, spec.tokens),
        stops(spec.stop_bytes, std::move(bytes)),
        submitted(Clock::now()) {
    counters.assign(spec.program.size(), SteerCounter{0, 0.0});
    result.reused.assign(spec.program.size(), 0);
  }

  int64_t id;
  RequestSpec spec;
  std::shared_ptr<Sink> sink;
  std::shared_ptr<const Program> program;
  std::vector<Capture> captures;
  std::vector<Capture> probes;
  std::vector<float> latches;  // one per reading of the program, NaN until it is made
  std::vector<SteerCounter> counters;

  std::vector<int64_t> tokens;  // prompt, then generated
  int64_t prompt;
  int64_t computed = 0;         // positions whose keys and values stand in the cache
  // Positions whose rows have been computed and counted, or taken from the cache, at some time. A request
  // that gave its blocks up computes rows below this again: nothing of them is counted or captured twice.
  int64_t settled = 0;
  std::vector<int32_t> blocks;
  std::vector<Hash128> keys;    // of the full blocks whose content is decided, see block_key()
  size_t published = 0;         // blocks told to the store
  bool tail_published = false;  // of the prompt's last, partial block
  int64_t reused_tokens = 0;    // positions taken from the cache
  int64_t needed = 0;           // first_needed(), once captures are known
  bool prepared = false;
  Sampler sampler;
  StopMatcher stops;
  Result result;

  Clock::time_point submitted;
  Clock::time_point started;
  Clock::time_point first_token;
  // The engine's count of steps at those times, and at the last step that served this request.
  int64_t submitted_step = 0;
  int64_t started_step = -1;
  int64_t first_token_step = -1;
  int64_t served_step = 0;

  // A stream of captures: bytes sent and not acknowledged, and of one position's rows.
  int64_t unacknowledged = 0;
  int64_t row_bytes = 0;
  // The consumer is behind: the request rests until it has caught up by half, neighbours go on.
  bool paused() const { return spec.stream && unacknowledged > spec.buffer_bytes / 2; }
  // Most positions the next step may compute within the bound; at least one, so that it moves at all.
  int64_t streamable() const;
  // Bytes of rows taken in and not sent.
  int64_t held_bytes() const;

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t generated() const { return length() - prompt; }
  // Content of block `index`: everything its keys and values depend on. Its tokens must be known.
  const Hash128& block_key(size_t index);
  // Rows of the prompt before its last one that do not fill a block: they may be shared by copy.
  int64_t tail_rows() const;
  size_t tail_block() const;
  Hash128 tail_key();
  // Notes that positions [computed, end) came from the cache: how many, and the rows operations act on
  // there. Those settled before are not told again.
  void adopt(int64_t end);
  // Forgets what stands in the cache, after the blocks were given up.
  void rewind();
  // First position that has to be computed whatever the cache holds: what is captured, scored or
  // sampled from cannot come from a cache.
  int64_t first_needed() const;
  // Has more rows to compute than the one that chooses the next token.
  bool filling() const { return computed < prompt || computed + 1 < length(); }
  bool wants_prompt_rows() const { return spec.prompt_logprobs || spec.logits == LogitsWanted::kAll; }
};

}  // namespace chatspace
