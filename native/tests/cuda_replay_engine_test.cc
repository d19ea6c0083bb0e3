// SPDX-License-Identifier: Apache-2.0
// Replayed steps under the engine itself: requests that lose their cache blocks in the middle of an answer and
// compute them again elsewhere, and requests that take over a copied block, between replays of the same
// recordings. A peer's replay lost writes while the text looked fine (defect 11 of docs/numerics.md): here
// tokens, their probabilities, captured states and the counted rows must be those of eager steps.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>

#include "engine/engine.h"
#include "tests/check.h"
#include "tests/decode_world.h"
#include "tests/emulated_recorder.h"

namespace chatspace::testing {
namespace {

// What one request was told, until its end.
class Answer final : public Sink {
 public:
  void on_tokens(TokenBatch batch) override {
    std::lock_guard<std::mutex> lock(mutex_);
    logprobs.insert(logprobs.end(), batch.logprobs.begin(), batch.logprobs.end());
  }
  void on_captures(CaptureBatch) override {}
  void on_done(Result done) override { end(std::move(done), ""); }
  void on_error(const std::string& code, const std::string& message, const std::string&) override {
    end({}, code + ": " + message);
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [this] { return done_; });
    if (!error_.empty()) fail(__FILE__, __LINE__, error_);
  }
  Result result;
  std::vector<float> logprobs;

 private:
  void end(Result done, const std::string& error) {
    std::lock_guard<std::mutex> lock(mutex_);
    result = std::move(done);
    error_ = error;
    done_ = true;
    ended_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::string error_;
};

// An engine whose decode steps are eager, or replayed on the emulated device.
class Served {
 public:
  Served(const LoadOptions& options, bool replays)
      : engine_(options, [](const Decoder*, const Failure& failure) { CHECK_THAT(!failure); },
                [this, replays](const LoadOptions& load) -> std::unique_ptr<Decoder> {
                  auto decoder = std::make_unique<OwnDecoder>(open_archive(load.path), load);
                  if (replays) decoder->use_graphs(backend_);
                  return decoder;
                }) {}
  // All at once, answered together.
  std::vector<std::shared_ptr<Answer>> ask(const std::vector<RequestSpec>& requests) {
    std::vector<std::shared_ptr<Answer>> answers;
    for (const RequestSpec& request : requests) {
      answers.push_back(std::make_shared<Answer>());
      engine_.submit(request, answers.back());
    }
    for (const auto& answer : answers) answer->wait();
    return answers;
  }
  EngineStats stats() const { return engine_.stats(); }

 private:
  EmulatedBackend backend_;
  Engine engine_;
};

RequestSpec request_of(std::mt19937& random, int64_t prompt, int64_t max_tokens) {
  RequestSpec spec;
  for (; prompt > 0; --prompt) spec.tokens.push_back(3 + static_cast<int64_t>(random() % 500));
  spec.max_tokens = max_tokens;
  spec.logprobs = 0;
  return spec;
}

void check_equal(const RequestSpec& request, const Answer& got, const Answer& want, const std::string& what) {
  CHECK_THAT(got.result.finish == want.result.finish && got.result.tokens == want.result.tokens);
  const auto tensor = [](const auto& v) { return at::tensor(at::ArrayRef<float>(v.data(), v.size())); };
  CHECK_CLOSE(tensor(got.logprobs), tensor(want.logprobs), 2e-5, what + " log-probabilities");
  for (size_t i = 0; i < want.result.counters.size(); ++i) {
    // What was steered when another request computed it counts as reused, but for gates: nobody kept which rows.
    if (request.program[i].gate.has_value() && got.result.cached_tokens > 0) continue;
    CHECK_THAT(got.result.counters[i].rows + got.result.reused[i] ==
               want.result.counters[i].rows + want.result.reused[i]);
  }
  CHECK_THAT(got.result.captures.size() == want.result.captures.size());
  for (size_t i = 0; i < want.result.captures.size(); ++i) {
    const CaptureRows &a = got.result.captures[i].rows, &b = want.result.captures[i].rows;
    CHECK_THAT(a.positions == b.positions && !b.positions.empty());
    CHECK_CLOSE(tensor(a.data), tensor(b.data), 2e-5, what + " captures");
  }
}

}  // namespace

TEST(cuda_graphs_replayed_across_preemption_equal_eager_steps) {
  at::manual_seed(51);
  std::mt19937 random(51);
  const LoadOptions roomy = small_model();
  OwnDecoder probe(open_archive(roomy.path), roomy);
  LoadOptions narrow = roomy;
  // An answer grows to four blocks: younger requests must give theirs up in the middle.
  narrow.cache_bytes = 6 * probe.cache_block_bytes();
  Served eager(roomy, false), replayed(narrow, true);
  std::vector<RequestSpec> requests;
  for (int i = 0; i < 6; ++i) {
    RequestSpec request = request_of(random, 12 + static_cast<int64_t>(random() % 30), 56);
    request.program = random_program(random, probe.info().layers, probe.info().hidden_size);
    if (i % 2 == 0) {
      CaptureSpec capture;
      capture.site = "layers.2";
      request.captures.push_back(capture);
    }
    requests.push_back(request);
  }
  const auto want = eager.ask(requests), got = replayed.ask(requests);
  int64_t moved = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    check_equal(requests[i], *got[i], *want[i], "request " + std::to_string(i));
    CHECK_THAT(static_cast<int64_t>(got[i]->result.tokens.size()) == requests[i].max_tokens ||
               got[i]->result.finish != "length");
    moved += got[i]->result.preemptions;
  }
  const EngineStats stats = replayed.stats();
  CHECK_THAT(moved > 0 && stats.graphs.replayed > 50 && stats.recomputed_tokens > 0);
  std::printf("  %lld steps replayed, %lld preemptions, %lld rows computed again\n",
              static_cast<long long>(stats.graphs.replayed), static_cast<long long>(moved),
              static_cast<long long>(stats.recomputed_tokens));
  report_worst("replay across preemption");
}

TEST(cuda_graphs_replayed_from_a_copied_prompt_tail_equal_eager_steps) {
  at::manual_seed(52);
  std::mt19937 random(52);
  const LoadOptions options = small_model();
  OwnDecoder probe(open_archive(options.path), options);
  Served eager(options, false), replayed(options, true);
  int64_t copied = 0;
  for (int round = 0; round < 6; ++round) {
    // One whole block to share and a part of one to copy.
    const RequestSpec first = request_of(random, 36 + static_cast<int64_t>(random() % 20), 24);
    const int64_t prompt = static_cast<int64_t>(first.tokens.size());
    std::vector<RequestSpec> first_alone{first}, others;
    if (round % 2 == 1) first_alone[0].program = random_program(random, probe.info().layers, probe.info().hidden_size);
    for (int i = 0; i < 3; ++i) {
      RequestSpec other = first_alone[0];
      // The same prompt under the same program, answered otherwise: its own operations act on the answer alone.
      for (OperationSpec op : random_program(random, probe.info().layers, probe.info().hidden_size)) {
        op.scope.phase = Phase::kGeneration;
        other.program.push_back(op);
      }
      other.max_tokens = 10 + 5 * i;
      others.push_back(other);
    }
    others.push_back(request_of(random, 20, 40));  // a stranger in the same steps
    const auto first_want = eager.ask(first_alone), first_got = replayed.ask(first_alone);
    check_equal(first_alone[0], *first_got[0], *first_want[0], "the first");
    const auto got = replayed.ask(others);
    std::vector<RequestSpec> afresh = others;
    for (RequestSpec& request : afresh) request.reuse = false;
    const auto want = eager.ask(afresh);
    for (size_t i = 0; i < others.size(); ++i) {
      check_equal(others[i], *got[i], *want[i], "round " + std::to_string(round) + " request " + std::to_string(i));
      if (i == 3) continue;
      // All but the row that chooses the first token came from the cache, the tail by copy.
      CHECK_THAT(want[i]->result.cached_tokens == 0 && got[i]->result.cached_tokens == prompt - 1);
      copied += 1;
    }
  }
  const EngineStats stats = replayed.stats();
  CHECK_THAT(stats.graphs.replayed > 50);
  std::printf("  %lld steps replayed, %lld requests from a copied tail\n", static_cast<long long>(stats.graphs.replayed),
              static_cast<long long>(copied));
  report_worst("replay from a copied tail");
}

}  // namespace chatspace::testing
