// SPDX-License-Identifier: Apache-2.0
// A method of an archive of ours as a flat list of calls.
//
// TorchScript says what a model computes; its interpreter takes four to seven microseconds from one operator
// to the next, a twentieth of a step of a small model. The graph of such a method has no course of its own:
// modules, weights, eps and the choice between branches are fixed once the archive is loaded. So its calls are
// inlined, everything known is computed, tuples and attributes dissolve into numbered slots, and what is left is
// called in the graph's order. The results are the interpreter's to the bit, for the calls are the same.
//
// A site whose output goes into an addition with RMS norm and nowhere else becomes one call with it
// (Backend::steer_add_rms_norm).
#pragma once

#include <torch/script.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace chatspace {

class CallPlan {
 public:
  // bound: per input of the method without self, what it always is, or nothing. Made after graph surgery and after
  // the weights have come in: attributes are read once, here. Null, with a reason, when the graph holds what a
  // list cannot (a loop); such a method stays with the interpreter.
  static std::unique_ptr<CallPlan> make(const torch::jit::Module& module, const std::string& method,
                                        const std::vector<std::optional<c10::IValue>>& bound, std::string* reason);

  // inputs: those that are not bound, in order. One call at a time. Throws what the operators throw.
  at::Tensor run(std::vector<c10::IValue> inputs);

  // Sites that are one call with the norm behind them.
  int64_t fused_sites() const { return fused_sites_; }

  // Slots are fixed when the plan is made, so a call is a closure over their numbers.
  using Call = std::function<void(c10::IValue* slots)>;

 private:
  friend class CallPlanMaker;
  struct Block;
  struct Step {
    Call call;                            // empty: a branch
    std::vector<int32_t> dead;            // slots nobody reads after this
    int32_t condition = -1;
    std::unique_ptr<Block> branches[2];   // taken when true, when false
  };
  struct Block {
    std::vector<Step> steps;
    std::vector<std::pair<int32_t, int32_t>> results;  // from this slot to that, at the end
    std::vector<int32_t> dead;                         // then
  };

  CallPlan() = default;
  void run_block(const Block& block);

  Block body_;
  std::vector<c10::IValue> slots_;   // known values stand in theirs for good
  std::vector<bool> known_;
  std::vector<int32_t> inputs_;      // slots
  int32_t result_ = -1;
  int64_t fused_sites_ = 0;
};

}  // namespace chatspace
