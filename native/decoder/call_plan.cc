// SPDX-License-Identifier: Apache-2.0
#include "decoder/call_plan.h"

#include "decoder/call_plan_maker.h"

namespace chatspace {

std::unique_ptr<CallPlan> CallPlan::make(const torch::jit::Module& module, const std::string& method,
                                         const std::vector<std::optional<c10::IValue>>& bound, std::string* reason) {
  try {
    return CallPlanMaker(module, method, bound).take();
  } catch (const NotFlat& refusal) {
    *reason = refusal.what();
    return nullptr;
  }
}

void CallPlan::run_block(const Block& block) {
  c10::IValue* slots = slots_.data();
  for (const Step& step : block.steps) {
    if (step.call) {
      step.call(slots);
    } else {
      run_block(*step.branches[slots[step.condition].toBool() ? 0 : 1]);
    }
    for (const int32_t slot : step.dead) slots[slot] = c10::IValue();
  }
  for (const auto& [from, to] : block.results) slots[to] = slots[from];
  for (const int32_t slot : block.dead) slots[slot] = c10::IValue();
}

at::Tensor CallPlan::run(std::vector<c10::IValue> inputs) {
  TORCH_CHECK(inputs.size() == inputs_.size(), "chatspace: the plan takes ", inputs_.size(), " inputs, got ",
              inputs.size());
  // Whatever ends the run, nothing of it stays alive.
  struct Sweep {
    CallPlan& plan;
    ~Sweep() {
      for (size_t i = 0; i < plan.slots_.size(); ++i) {
        if (!plan.known_[i] && !plan.slots_[i].isNone()) plan.slots_[i] = c10::IValue();
      }
    }
  } sweep{*this};
  for (size_t i = 0; i < inputs.size(); ++i) slots_[static_cast<size_t>(inputs_[i])] = std::move(inputs[i]);
  run_block(body_);
  return slots_[static_cast<size_t>(result_)].toTensor();
}

}  // namespace chatspace
