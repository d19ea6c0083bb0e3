// SPDX-License-Identifier: Apache-2.0
// A CUDA thread block on one CPU thread: each lane is a fibre that runs until it waits for others. Stands
// in for CudaBlock (kernels/cuda/block.cuh) under the same interface, so that the tests run the kernels'
// own bodies. Warps advance at a random pace, which brings a missing barrier to light as a wrong result;
// lanes that wait for different things, or for lanes that are gone, fail the run.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "kernels/steer_types.h"

namespace chatspace::testing {

class EmulatedBlock {
 public:
  class Lane {
   public:
    int rank() const { return rank_; }
    int size() const { return block_->threads_; }
    int lane() const { return rank_ & 31; }
    int warp() const { return rank_ >> 5; }
    int warps() const { return size() >> 5; }
    void sync() { block_->wait(rank_, Wait::kBlock); }
    void sync_warp() { block_->wait(rank_, Wait::kWarp); }
    float warp_sum(float value) {
      const float* all = exchange(value);
      // The order of the device's butterfly.
      float parts[32];
      for (int i = 0; i < 32; ++i) parts[i] = all[i];
      for (int step = 16; step > 0; step >>= 1) {
        for (int i = 0; i < step; ++i) parts[i] += parts[i + step];
      }
      return parts[0];
    }
    float warp_max(float value) {
      const float* all = exchange(value);
      float top = -std::numeric_limits<float>::infinity();
      for (int i = 0; i < 32; ++i) top = std::fmax(top, all[i]);
      return top;
    }
    float sum(float value) {
      value = warp_sum(value);
      sync();
      if (lane() == 0) block_->reduce_[static_cast<size_t>(warp())] = value;
      sync();
      return warp_sum(lane() < warps() ? block_->reduce_[static_cast<size_t>(lane())] : 0.0f);
    }
    void count(SteerCounter& counter, double change) {
      counter.rows += 1;
      counter.change_norm += change;
    }

   private:
    friend class EmulatedBlock;
    const float* exchange(float value) {
      // Two buffers in turn: a lane can be one exchange ahead of another, never two.
      float* slots = block_->slots_.data() + (turn_ * block_->threads_ + warp() * 32);
      turn_ ^= 1;
      slots[lane()] = value;
      block_->wait(rank_, Wait::kExchange);
      return slots;
    }
    EmulatedBlock* block_ = nullptr;
    int rank_ = 0;
    int turn_ = 0;
  };

  explicit EmulatedBlock(int threads, uint32_t seed = 1)
      : threads_(threads), random_(seed), fibres_(static_cast<size_t>(threads)), slots_(2 * fibres_.size()), reduce_(32) {
    for (Fibre& fibre : fibres_) fibre.stack = std::make_unique<char[]>(kStackBytes);
  }

  // Runs body on every lane of one block.
  void run(const std::function<void(Lane&)>& body) {
    body_ = &body;
    running_ = this;
    for (int rank = 0; rank < threads_; ++rank) {
      Fibre& fibre = fibres_[static_cast<size_t>(rank)];
      fibre.lane = Lane();
      fibre.lane.block_ = this;
      fibre.lane.rank_ = rank;
      fibre.wait = Wait::kNothing;
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.get();
      fibre.context.uc_stack.ss_size = kStackBytes;
      fibre.context.uc_link = &scheduler_;
      makecontext(&fibre.context, reinterpret_cast<void (*)()>(&EmulatedBlock::enter), 1, rank);
    }
    while (advance()) {
    }
  }

 private:
  enum class Wait { kNothing, kWarp, kExchange, kBlock, kDone };
  struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Lane lane;
    Wait wait = Wait::kDone;
  };
  static constexpr size_t kStackBytes = 64 * 1024;

  static void enter(int rank) {
    Fibre& fibre = running_->fibres_[static_cast<size_t>(rank)];
    (*running_->body_)(fibre.lane);
    fibre.wait = Wait::kDone;
  }

  void wait(int rank, Wait what) {
    Fibre& fibre = fibres_[static_cast<size_t>(rank)];
    fibre.wait = what;
    swapcontext(&fibre.context, &scheduler_);
  }

  // All lanes of warp `w` wait for `what`.
  bool all_wait(int w, Wait what) const {
    for (int i = 0; i < 32; ++i) {
      if (fibres_[static_cast<size_t>(w * 32 + i)].wait != what) return false;
    }
    return true;
  }
  void release(int first, int count) {
    for (int i = first; i < first + count; ++i) fibres_[static_cast<size_t>(i)].wait = Wait::kNothing;
  }

  // Runs one warp that can run to its next wait; false when every lane is done.
  bool advance() {
    const int warps = threads_ / 32;
    std::vector<int> able;
    int done = 0, at_block = 0;
    for (int w = 0; w < warps; ++w) {
      if (all_wait(w, Wait::kWarp) || all_wait(w, Wait::kExchange)) release(w * 32, 32);
      if (all_wait(w, Wait::kNothing)) able.push_back(w);
      else if (all_wait(w, Wait::kDone)) ++done;
      else if (all_wait(w, Wait::kBlock)) ++at_block;
      else throw std::logic_error("lanes of a warp wait for different things");
    }
    if (done == warps) return false;
    if (able.empty()) {
      if (at_block != warps) throw std::logic_error("warps wait at a block barrier for warps that are gone");
      release(0, threads_);
      return true;
    }
    const int warp = able[random_() % able.size()];
    const auto first = static_cast<int>(random_() % 32);
    for (int i = 0; i < 32; ++i) {
      Fibre& fibre = fibres_[static_cast<size_t>(warp * 32 + (first + i) % 32)];
      swapcontext(&scheduler_, &fibre.context);
    }
    return true;
  }

  static inline EmulatedBlock* running_ = nullptr;
  int threads_;
  std::mt19937 random_;
  std::vector<Fibre> fibres_;
  std::vector<float> slots_;
  std::vector<float> reduce_;
  ucontext_t scheduler_;
  const std::function<void(Lane&)>* body_ = nullptr;
};

}  // namespace chatspace::testing
