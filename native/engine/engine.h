// SPDX-License-Identifier: Apache-2.0
// The engine of one model: requests in, steps out. One executor thread owns the decoder, the device,
// grad mode and inference mode from load to destruction; every public method may be called from any
// thread and none waits for a step.
//
// Requests join and leave at step boundaries. A step holds one row for every request that generates and
// chunks of prompts up to the token budget.
//
// Nobody starves, because age decides wherever there is not enough for all: blocks of the cache are taken
// as a request grows; where none is left, the youngest running request gives its own up and computes its
// rows again later (same bits, nothing counted twice). Younger requests may overtake one that waits for
// room, and give the room back when it suffices. The oldest prompt has half of a step's budget, the rest
// goes to whatever is done soonest.
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
#include "engine/tally.h"
#include "kernels/thread_pool.h"
#include "steering/program_table.h"
#include "steering/step_tables.h"

namespace chatspace {

class Engine {
 public:
  // The decoder (null on failure) may be read during the call and not after it.
  using Loaded = std::function<void(const Decoder* decoder, const Failure& failure)>;

  using Open = std::function<std::unique_ptr<Decoder>(const LoadOptions& options)>;

  // Starts the thread and loads on it, by `open`; `loaded` is called there.
  Engine(LoadOptions options, Loaded loaded, Open open = load_decoder);
  // Aborts what runs and joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int64_t submit(RequestSpec spec, std::shared_ptr<Sink> sink);
  // While held the engine takes in no new requests, so that those which are submitted together start together;
  // what runs goes on. A hold ends by itself after 20 ms.
  void hold(bool on);
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
    int64_t fresh;        // rows before this one were computed before
    int64_t end;          // positions computed after the step
    int64_t first_logit;  // index into the step's logits of this part's first wanted row
    int64_t logits;
  };
  // A prompt's place in the step that is planned.
  struct Chunk {
    Sequence* sequence;
    int64_t rows;
  };
  // A request's last word, sent when the engine's books are closed for the step.
  struct Ending {
    std::shared_ptr<Sink> sink;
    Result result;
    Failure failure;
  };
  void run();
  bool load();
  void serve();
  bool wait_for_work();
  // admission.cc
  void admit();
  bool start(Sequence& sequence);
  bool displacing_suffices(const Sequence& sequence, int64_t need) const;
  Failure prepare(Sequence& sequence);
  // Makes sure of a block for the next row of every request that generates, oldest first.
  void grow();
  void preempt(Sequence& sequence);
  // Who gives place and blocks up for `wanting` next: one that is paused, else the youngest if it is
  // younger; null when nobody does.
  Sequence* victim_for(const Sequence& wanting) const;
  // Requests that may take part in a step, and those that do: who is paused keeps nobody waiting.
  size_t places() const;
  size_t active() const;
  // Blocks left alone at a start, so that those who run can go on for a while.
  int64_t reserve() const;
  // prefix.cc: what is already computed, here or by a neighbour in this step.
  // Takes the longest cached prefix.
  void share_prefix(Sequence& sequence);
  int32_t find_tail(Sequence& sequence);
  void copy_tail(Sequence& sequence, int32_t from);
  // Takes what has been published since, and says whether another chunk of this step computes what this
  // request needs next.
  bool waits_for_prefix(Sequence& sequence, const std::vector<Chunk>& chunks);
  bool comes_in(Sequence& sequence, const std::vector<Chunk>& chunks, size_t index);
  void publish(Sequence& sequence);
  void prepare_captures(Sequence& sequence);
  void expect_captures(Sequence& sequence);
  // Sends what a stream of captures holds, when that is a chunk's worth or the request ends.
  void send_captures(Sequence& sequence, bool last);
  // false when there was nothing to compute: everybody that runs is paused.
  bool step();
  void plan(StepRows& rows, std::vector<Part>& parts, std::vector<int64_t>& logit_rows);
  // Shares the rows left in the budget among prompts.
  std::vector<Chunk> plan_prompts(int64_t budget, size_t most_chunks);
  void note_step(const std::vector<Part>& parts, double seconds);
  void add_part(Sequence& sequence, int64_t count, StepRows& rows, std::vector<Part>& parts,
                std::vector<int64_t>& logit_rows);
  void take(const Part& part, const float* logits);
  void take_prompt_rows(Sequence& sequence, const Part& part, const float* logits);
  bool generate(Sequence& sequence, const float* logits);
  void finish(Sequence& sequence, const char* reason);
  void fail(Sequence& sequence, const std::string& code, const std::string& message, const std::string& details);
  void drop_finished();
  // Brings the books up to date and sends the endings.
  void close_step();
  // Blocks of the tokens there are; positions and blocks of the longest sequence the request may become.
  static int64_t blocks_now(const Sequence& sequence);
  int64_t most_positions(const Sequence& sequence) const;
  int64_t most_blocks(const Sequence& sequence) const;

  LoadOptions options_;
  Loaded loaded_;
  Open open_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<BlockStore> blocks_;
  std::unique_ptr<ProgramTable> programs_;
  std::unique_ptr<StepTables> tables_;
  // Both by age, oldest first: ids ascend.
  std::vector<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::unordered_set<int64_t> finished_;
  bool stalled_ = false;  // the last step had nothing to do: only news from outside can change that
  std::vector<Ending> endings_;
  int64_t steps_ = 0;
  EngineStats book_;  // of the executor thread; copied to stats_ when a step is closed

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Sequence>> incoming_;
  Clock::time_point held_until_{};
  std::unordered_set<int64_t> aborts_;
  std::unordered_map<int64_t, int64_t> acknowledged_;  // bytes, by request
  std::shared_ptr<const TokenBytes> token_bytes_;
  EngineStats stats_;
  Tally tally_{Clock::now()};
  int64_t next_id_ = 1;
  int64_t accepted_ = 0;
  bool stopping_ = false;
  bool dead_ = false;  // load failed or shut down
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace chatspace
