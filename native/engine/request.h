// SPDX-License-Identifier: Apache-2.0
// What goes into the engine and what comes out, free of JavaScript. A Sink is called on the executor
// thread and must not block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "decoder/decoder.h"
#include "kernels/steer_types.h"
#include "steering/capture.h"
#include "steering/program.h"

namespace chatspace {

struct SamplingSpec {
  double temperature = 0.0;  // 0 = greedy
  int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  uint64_t seed = 0;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
};

enum class LogitsWanted { kNone, kLast, kAll };

struct RequestSpec {
  std::vector<int64_t> tokens;
  std::vector<int32_t> given_rows;
  std::vector<float> given;  // [given_rows, hidden]
  int64_t max_tokens = 0;
  int64_t min_tokens = 0;
  std::vector<int32_t> stop_ids;
  std::vector<std::string> stop_bytes;
  SamplingSpec sampling;
  int64_t logprobs = -1;
  bool prompt_logprobs = false;
  bool reuse = true;  // may take a prefix from the cache
  LogitsWanted logits = LogitsWanted::kNone;
  std::vector<OperationSpec> program;
  std::vector<CaptureSpec> captures;
  // Rows of captures leave in pieces while the request runs, instead of all at its end.
  bool stream = false;
  int64_t chunk_bytes = 0;   // a piece is sent when it is this large, and at the end
  int64_t buffer_bytes = 0;  // most that may be out without having been acknowledged
  std::vector<CaptureSpec> probes;  // each one direction of one site, read at every row
};

struct TokenBatch {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<int32_t> top_ids;  // [tokens, k]
  std::vector<float> top_logprobs;
  std::vector<float> probes;  // [tokens, probes]: of the row that chose each token
};

struct CaptureResult {
  std::string site;
  CaptureRows rows;
  int64_t width = 0;
};

// A piece of a stream of captures: of every capture the rows of the same steps.
struct CaptureBatch {
  std::vector<CaptureResult> captures;
  int64_t bytes = 0;  // to be acknowledged
};

struct Result {
  std::string finish;
  int64_t stop_index = -1;
  std::vector<int32_t> tokens;
  std::vector<float> prompt_logprobs;
  std::vector<float> logits;
  std::vector<CaptureResult> captures;
  std::vector<CaptureResult> probes;
  std::vector<SteerCounter> counters;
  std::vector<int64_t> reused;  // per operation: rows whose steered keys and values came from the cache
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  double queued_ms = 0;
  double prompt_ms = 0;
  double generate_ms = 0;
  // The same in steps of the engine: before it started, up to its first token, after that.
  int64_t queued_steps = 0;
  int64_t prompt_steps = 0;
  int64_t generate_steps = 0;
  int64_t preemptions = 0;  // times it gave its cache blocks up to an older request
};

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void on_tokens(TokenBatch batch) = 0;
  virtual void on_captures(CaptureBatch batch) = 0;
  virtual void on_done(Result result) = 0;
  virtual void on_error(const std::string& code, const std::string& message, const std::string& details) = 0;
};

struct EngineStats {
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t requests = 0;
  int64_t programs = 0;  // held compiled: equal ones of several requests are one
  int64_t steps = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t recomputed_tokens = 0;  // rows run again: after a preemption, or by models without a cache
  int64_t preemptions = 0;
  int64_t step_rows = 0;       // of the last step
  int64_t step_sequences = 0;  // of the last step
  int64_t largest_step_rows = 0;
  double mean_step_rows = 0;
  double mean_step_sequences = 0;
  double step_seconds = 0;  // spent in steps, in all
  // Over the last ten seconds, or since the load where that is less.
  double prompt_tokens_per_second = 0;
  double generated_tokens_per_second = 0;
  GraphCounts graphs;
  int64_t flash_layers = 0;
  int64_t cache_blocks = 0;
  int64_t cache_blocks_used = 0;
  int64_t cache_blocks_kept = 0;
  int64_t cache_lookups = 0;  // prefix blocks and tails looked for by starting requests
  int64_t cache_hits = 0;
  int64_t cache_evictions = 0;
  int64_t weight_bytes = 0;
  int64_t cache_bytes = 0;
  int64_t capture_bytes = 0;  // of requests that run or wait to go on
};

}  // namespace chatspace
