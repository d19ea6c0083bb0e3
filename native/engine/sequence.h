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
  std::vector<int32_t> blocks;
  std::vector<Hash128> keys;  // of the full blocks whose content is decided, see block_key()
  size_t published = 0;       // blocks told to the store
  int64_t reused_tokens = 0;  // positions taken from the cache
  int64_t needed = 0;         // first_needed(), once captures are known
  bool prepared = false;
  Sampler sampler;
  StopMatcher stops;
  Result result;

  Clock::time_point submitted;
  Clock::time_point started;
  Clock::time_point first_token;

  // A stream of captures: bytes sent and not acknowledged, and of one position's rows.
  int64_t unacknowledged = 0;
  int64_t row_bytes = 0;
  // The consumer is behind: the request rests until it has caught up by half, neighbours go on.
  bool paused() const { return spec.stream && unacknowledged > spec.buffer_bytes / 2; }
  // Most positions the next step may compute within the bound; at least one, so that it moves at all.
  int64_t streamable() const;
  // Bytes of rows taken in and not sent.
  int64_t held_bytes() const;

  int64_t generated() const { return static_cast<int64_t>(tokens.size()) - prompt; }
  // Content of block `index`: everything its keys and values depend on. Its tokens must be known.
  const Hash128& block_key(size_t index);
  // Notes that block `index` came from the cache: its positions, and the rows operations act on there.
  void adopt(size_t index);
  // First position that has to be computed whatever the cache holds: what is captured, scored or
  // sampled from cannot come from a cache.
  int64_t first_needed() const;
  bool in_prompt() const { return computed < prompt; }
  bool wants_prompt_rows() const { return spec.prompt_logprobs || spec.logits == LogitsWanted::kAll; }
};

}  // namespace chatspace
