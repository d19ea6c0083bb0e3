// SPDX-License-Identifier: Apache-2.0
// The thread: load, wait, serve, end.
#include "engine/engine.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>

#include "kernels/core_share.h"

namespace chatspace {

Engine::Engine(LoadOptions options, Loaded loaded, Open open)
    : options_(std::move(options)), loaded_(std::move(loaded)), open_(std::move(open)), thread_([this] { run(); }) {}

Engine::~Engine() { shutdown(); }

int64_t Engine::submit(RequestSpec spec, std::shared_ptr<Sink> sink) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t id = next_id_++;
  if (stopping_ || dead_) {
    sink->on_error("ERR_DISPOSED", "the model is disposed", "{}");
    return id;
  }
  incoming_.push_back(std::make_unique<Sequence>(id, std::move(spec), std::move(sink), token_bytes_));
  accepted_ += 1;
  wake_.notify_one();
  return id;
}

void Engine::hold(bool on) {
  std::lock_guard<std::mutex> lock(mutex_);
  held_until_ = on ? Clock::now() + std::chrono::milliseconds(20) : Clock::time_point{};
  if (!on) wake_.notify_one();
}

void Engine::abort(int64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  aborts_.insert(id);
  wake_.notify_one();
}

void Engine::acknowledge(int64_t id, int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  acknowledged_[id] += bytes;
  wake_.notify_one();
}

void Engine::set_token_bytes(std::shared_ptr<const TokenBytes> bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  token_bytes_ = std::move(bytes);
}

EngineStats Engine::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = stats_;
  stats.requests = accepted_;
  stats.waiting += static_cast<int64_t>(incoming_.size());
  tally_.write(stats, Clock::now());
  return stats;
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
    programs_.reset();
    decoder_.reset();
  }
  pool_.reset();
}

bool Engine::load() {
  const Failure failure = guard([this] {
    decoder_ = open_(options_);
    // The operators of our archives bring their own threads. What else such a graph calls is small, and the
    // library's threads spin between its calls: on cores that are shared they stop everything for milliseconds.
    if (decoder_->info().own) at::set_num_threads(1);
    blocks_ = std::make_unique<BlockStore>(decoder_->cache_blocks());
    programs_ = std::make_unique<ProgramTable>(decoder_->device());
    tables_ = std::make_unique<StepTables>(decoder_->sites(), decoder_->device(),
                                           [this](const at::Tensor& rows) { return decoder_->lens(rows); });
    book_.weight_bytes = decoder_->info().weight_bytes;
    book_.cache_blocks = blocks_->total();
    book_.cache_bytes = blocks_->total() * decoder_->cache_block_bytes();
    std::lock_guard<std::mutex> lock(mutex_);
    stats_ = book_;
    tally_ = Tally(Clock::now());
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
  const auto held = [this] { return Clock::now() < held_until_; };
  const auto ready = [&] {
    if (stopping_ || (!incoming_.empty() && !held()) || !aborts_.empty() || !acknowledged_.empty()) return true;
    return !stalled_ && (!waiting_.empty() || !running_.empty());
  };
  while (!ready()) {
    if (incoming_.empty()) {
      wake_.wait(lock);
    } else {
      wake_.wait_until(lock, held_until_);
    }
  }
  // One that is aborted has to be found, held or not.
  if (!held() || stopping_ || !aborts_.empty()) {
    for (auto& sequence : incoming_) {
      sequence->submitted_step = steps_;
      sequence->served_step = steps_;
      waiting_.push_back(std::move(sequence));
    }
    incoming_.clear();
  }
  if (stopping_ || !aborts_.empty()) {
    for (auto* list : {&waiting_, &running_}) {
      for (auto& sequence : *list) {
        if (stopping_ || aborts_.count(sequence->id) != 0) finish(*sequence, "aborted");
      }
    }
  }
  aborts_.clear();
  if (!acknowledged_.empty()) {
    for (auto* list : {&waiting_, &running_}) {
      for (auto& sequence : *list) {
        const auto found = acknowledged_.find(sequence->id);
        if (found != acknowledged_.end()) sequence->unacknowledged -= found->second;
      }
    }
  }
  acknowledged_.clear();
  return !stopping_;
}

void Engine::serve() {
  CoreLease cores(*pool_);
  int width = pool_->width();
  while (wait_for_work()) {
    drop_finished();
    admit();
    cores.hold(!running_.empty());
    if (pool_->width() != width) {
      width = pool_->width();
      at::set_num_threads(width);  // libtorch's own operators, which a stranger's archive is made of
    }
    stalled_ = running_.empty() || !step();
    close_step();
    if (stalled_ || running_.empty()) cores.hold(false);
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    dead_ = true;
    for (auto& sequence : incoming_) finish(*sequence, "aborted");
    incoming_.clear();
  }
  close_step();
}

}  // namespace chatspace
