// SPDX-License-Identifier: Apache-2.0
// The engine of one model: requests in, steps out. One executor thread owns the decoder, the device,
// grad mode and inference mode from load to destruction; every public method may be called from any
// thread and none waits for a step.
//
// Requests join and leave at step boundaries. A step holds one row for every request that generates
// and chunks of prompts up to the token budget, oldest first. Blocks for a request's longest possible
// sequence are taken when it starts, so that nothing that runs can starve.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "decoder/decoder.h"
#include "engine/block_store.h"
#include "engine/failure.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "kernels/thread_pool.h"
#include "steering/step_tables.h"

namespace chatspace {

class Engine {
 public:
  // The decoder (null on failure) may be read during the call and not after it.
  using Loaded = std::function<void(const Decoder* decoder, const Failure& failure)>;

  // Starts the thread and loads on it; `loaded` is called there.
  Engine(LoadOptions options, Loaded loaded);
  // Aborts what runs and joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int64_t submit(RequestSpec spec, std::shared_ptr<Sink> sink);
  void abort(int64_t id);
  // `bytes` of a request's stream of captures were taken; a request that was paused goes on.
  void acknowledge(int64_t id, int64_t bytes);
  void set_token_bytes(std::shared_ptr<const TokenBytes> bytes);
  EngineStats stats() const;
  // Aborts every request, frees the decoder on its thread, ends the thread. Idempotent; waits.
  void shutdown();

 private:
  struct Part {
    Sequence* sequence;
    int64_t rows;
    int64_t fresh;
    int64_t first_logit;  // index into the step's logits of this part's first wanted row
    int64_t logits;
  };
  void run();
  bool load();
  void serve();
  bool wait_for_work();
  void admit();
  Failure prepare(Sequence& sequence);
  // Takes the longest cached prefix and blocks for the rest; false when there are not enough.
  bool take_blocks(Sequence& sequence);
  // Whether another sequence of this step computes the block this one needs next.
  bool waits_for_prefix(Sequence& sequence, const std::vector<Part>& parts);
  void share_prefix(Sequence& sequence);
  void publish(Sequence& sequence);
  void prepare_captures(Sequence& sequence);
  void expect_captures(Sequence& sequence);
  // Sends what a stream of captures holds, when that is a chunk's worth or the request ends.
  void send_captures(Sequence& sequence, bool last);
  // false when there was nothing to compute: everybody that runs is paused.
  bool step();
  void plan(StepRows& rows, std::vector<Part>& parts, std::vector<int64_t>& logit_rows);
  void add_part(Sequence& sequence, int64_t count, StepRows& rows, std::vector<Part>& parts,
                std::vector<int64_t>& logit_rows);
  void take(const Part& part, const float* logits);
  void take_prompt_rows(Sequence& sequence, const Part& part, const float* logits);
  bool generate(Sequence& sequence, const float* logits);
  void finish(Sequence& sequence, const char* reason);
  void fail(Sequence& sequence, const std::string& code, const std::string& message, const std::string& details);
  void drop_finished();
  int64_t blocks_for(const Sequence& sequence) const;
  int64_t longest(const Sequence& sequence) const;

  LoadOptions options_;
  Loaded loaded_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<BlockStore> blocks_;
  std::unique_ptr<StepTables> tables_;
  std::vector<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::unordered_set<int64_t> finished_;
  bool stalled_ = false;  // the last step had nothing to do: only news from outside can change that

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Sequence>> incoming_;
  std::unordered_set<int64_t> aborts_;
  std::unordered_map<int64_t, int64_t> acknowledged_;  // bytes, by request
  std::shared_ptr<const TokenBytes> token_bytes_;
  EngineStats stats_;
  int64_t next_id_ = 1;
  bool stopping_ = false;
  bool dead_ = false;  // load failed or shut down
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace chatspace
