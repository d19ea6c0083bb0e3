// SPDX-License-Identifier: Apache-2.0
// Makes a CallPlan of a graph. Private to the plan.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

#include "decoder/call_plan.h"
#include "steering/site.h"

namespace chatspace {

// Something a list of calls cannot express.
class NotFlat : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class CallPlanMaker {
 public:
  CallPlanMaker(const torch::jit::Module& module, const std::string& method,
                const std::vector<std::optional<c10::IValue>>& bound);
  std::unique_ptr<CallPlan> take() { return std::move(plan_); }

 private:
  using Value = torch::jit::Value;
  using Node = torch::jit::Node;

  // A step with what it reads and writes, until it is known what dies where and what is joined.
  struct Draft {
    CallPlan::Call call;
    std::vector<int32_t> reads;
    std::vector<int32_t> writes;
    // A site: steers the tensors in slots reads[0] and, of a pair, reads[1] where they are.
    c10::intrusive_ptr<SiteHook> site;
    bool is_norm = false;  // add_rms_norm: reads delta, residual, weight, eps; writes normed, sum
    int32_t condition = -1;
    std::vector<Draft> branches[2];
    std::vector<std::pair<int32_t, int32_t>> results[2];
  };
  using Drafts = std::vector<Draft>;

  void block(const torch::jit::Block& from, Drafts& out);
  void node(const Node& node, Drafts& out);
  bool fold(const Node& node);
  void branch(const Node& node, Drafts& out);
  void method_call(const Node& node, Drafts& out);
  void list(const Node& node, Drafts& out);
  void operator_call(const Node& node, Drafts& out);
  // Joins sites with the norms behind them. live: slots that are read after these drafts.
  void join_norms(Drafts& drafts, const std::unordered_set<int32_t>& live);
  // live: slots read after the block; in the end those read in it too.
  void finish(Drafts drafts, std::unordered_set<int32_t>& live, CallPlan::Block& out);

  int32_t fresh(c10::IValue known = {}, bool is_known = false);
  int32_t slot_of(const Value* value);
  std::vector<int32_t> slots_of(at::ArrayRef<const Value*> values);
  std::vector<int32_t> define(at::ArrayRef<const Value*> values);
  const Value* source(const Value* value) const;             // what an alias stands for
  const c10::IValue* known(const Value* value) const;        // null: only a run tells
  bool all_known(at::ArrayRef<const Value*> values) const;

  std::shared_ptr<torch::jit::Graph> graph_;
  std::unique_ptr<CallPlan> plan_;
  std::unordered_map<const Value*, c10::IValue> known_;
  std::unordered_map<const Value*, const Value*> aliases_;
  std::unordered_map<const Value*, std::vector<const Value*>> tuples_;
  std::unordered_map<const Value*, int32_t> slots_;
};

}  // namespace chatspace
