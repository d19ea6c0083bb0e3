// SPDX-License-Identifier: Apache-2.0
#include "decoder/call_plan_maker.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>

#include "decoder/plan_operators.h"
#include "errors.h"
#include "ops/kv_cache.h"

namespace chatspace {

namespace jit = torch::jit;

namespace {

template <class Class>
c10::intrusive_ptr<Class> object_of(const c10::IValue* value) {
  if (value == nullptr || !value->isObject()) return {};
  return *value->type() == *c10::getCustomClassType<c10::intrusive_ptr<Class>>() ? value->toCustomClass<Class>()
                                                                                 : c10::intrusive_ptr<Class>();
}

// Whether a method that has a graph is called, at any depth.
bool calls_a_graph(const jit::Block& block) {
  for (const jit::Node* node : block.nodes()) {
    if (node->kind() == c10::prim::CallMethod) {
      const auto type = node->input(0)->type()->cast<c10::ClassType>();
      if (type && type->getMethod(node->s(c10::attr::name)).isGraphFunction()) return true;
    }
    for (const jit::Block* inner : node->blocks()) {
      if (calls_a_graph(*inner)) return true;
    }
  }
  return false;
}

// Modules lie a few deep, and the pass takes one level at a time.
void inline_calls(jit::Graph& graph) {
  for (int level = 0; level < 16 && calls_a_graph(*graph.block()); ++level) jit::Inline(graph);
}

bool is_tensor(const jit::Value* value) { return value->type()->kind() == c10::TypeKind::TensorType; }

}  // namespace

CallPlanMaker::CallPlanMaker(const jit::Module& module, const std::string& method,
                             const std::vector<std::optional<c10::IValue>>& bound)
    : graph_(jit::toGraphFunction(module.get_method(method).function()).graph()->copy()), plan_(new CallPlan()) {
  inline_calls(*graph_);
  const auto inputs = graph_->inputs();
  if (inputs.size() != bound.size() + 1) throw NotFlat(text(method, " takes ", inputs.size() - 1, " inputs"));
  known_[inputs[0]] = module._ivalue();
  for (size_t i = 0; i < bound.size(); ++i) {
    if (bound[i].has_value()) {
      known_[inputs[i + 1]] = *bound[i];
    } else {
      plan_->inputs_.push_back(define({inputs[i + 1]}).front());
    }
  }
  Drafts drafts;
  block(*graph_->block(), drafts);
  plan_->result_ = slot_of(graph_->outputs().at(0));
  std::unordered_set<int32_t> live{plan_->result_};
  finish(std::move(drafts), live, plan_->body_);
}

int32_t CallPlanMaker::fresh(c10::IValue value, bool is_known) {
  plan_->slots_.push_back(std::move(value));
  plan_->known_.push_back(is_known);
  return static_cast<int32_t>(plan_->slots_.size()) - 1;
}

const jit::Value* CallPlanMaker::source(const Value* value) const {
  for (auto at = aliases_.find(value); at != aliases_.end(); at = aliases_.find(value)) value = at->second;
  return value;
}

const c10::IValue* CallPlanMaker::known(const Value* value) const {
  const auto found = known_.find(source(value));
  return found == known_.end() ? nullptr : &found->second;
}

bool CallPlanMaker::all_known(at::ArrayRef<const Value*> values) const {
  return std::all_of(values.begin(), values.end(), [&](const Value* value) { return known(value) != nullptr; });
}

int32_t CallPlanMaker::slot_of(const Value* value) {
  value = source(value);
  const auto found = slots_.find(value);
  if (found != slots_.end()) return found->second;
  const c10::IValue* constant = known(value);
  if (constant == nullptr) throw NotFlat(text("a value of type ", value->type()->str(), " that no call made"));
  return slots_[value] = fresh(*constant, true);
}

std::vector<int32_t> CallPlanMaker::slots_of(at::ArrayRef<const Value*> values) {
  std::vector<int32_t> slots;
  for (const Value* value : values) slots.push_back(slot_of(value));
  return slots;
}

std::vector<int32_t> CallPlanMaker::define(at::ArrayRef<const Value*> values) {
  std::vector<int32_t> slots;
  for (const Value* value : values) slots.push_back(slots_[value] = fresh());
  return slots;
}

void CallPlanMaker::block(const jit::Block& from, Drafts& out) {
  for (const Node* each : from.nodes()) node(*each, out);
}

void CallPlanMaker::node(const Node& node, Drafts& out) {
  namespace prim = c10::prim;
  switch (node.kind()) {
    case prim::Constant:
      known_[node.output()] = jit::toIValue(node.output()).value_or(c10::IValue());
      return;
    case prim::Uninitialized:
      known_[node.output()] = c10::IValue();
      return;
    case prim::GetAttr: {
      const c10::IValue* object = known(node.input());
      if (object == nullptr) throw NotFlat("an attribute of an object made in the run");
      known_[node.output()] = object->toObjectRef().getAttr(node.s(c10::attr::name));
      return;
    }
    case prim::TupleConstruct: {
      auto& elements = tuples_[node.output()];
      for (const Value* input : node.inputs()) elements.push_back(source(input));
      return;
    }
    case prim::TupleUnpack: {
      const auto tuple = tuples_.find(source(node.input()));
      if (tuple == tuples_.end()) throw NotFlat("a tuple that no call made");
      for (size_t i = 0; i < node.outputs().size(); ++i) aliases_[node.outputs()[i]] = tuple->second.at(i);
      return;
    }
    case prim::unchecked_cast:
    case prim::unchecked_unwrap_optional:
      aliases_[node.output()] = node.input();
      return;
    case prim::If:
      return branch(node, out);
    case prim::CallMethod:
      return method_call(node, out);
    case prim::ListConstruct:
      return list(node, out);
    default:
      if (!fold(node)) operator_call(node, out);
  }
}

// What depends on nothing but what is known is computed here, tensors excepted: those are the model's work.
bool CallPlanMaker::fold(const Node& node) {
  const jit::Operator* found = node.maybeOperator();
  if (found == nullptr || node.hasSideEffects() || node.isNondeterministic() || !all_known(node.inputs())) return false;
  if (std::any_of(node.outputs().begin(), node.outputs().end(), is_tensor)) return false;
  jit::Stack stack;
  for (const Value* input : node.inputs()) stack.push_back(*known(input));
  found->getOperation(&node)(stack);
  for (size_t i = 0; i < node.outputs().size(); ++i) known_[node.outputs()[i]] = stack.at(i);
  return true;
}

void CallPlanMaker::branch(const Node& node, Drafts& out) {
  if (const c10::IValue* condition = known(node.input())) {
    const jit::Block& taken = *node.blocks().at(condition->toBool() ? 0 : 1);
    block(taken, out);
    for (size_t i = 0; i < node.outputs().size(); ++i) aliases_[node.outputs()[i]] = taken.outputs()[i];
    return;
  }
  Draft draft;
  draft.condition = slot_of(node.input());
  draft.reads.push_back(draft.condition);
  draft.writes = define(node.outputs());
  for (int which = 0; which < 2; ++which) {
    const jit::Block& each = *node.blocks().at(static_cast<size_t>(which));
    block(each, draft.branches[which]);
    for (size_t i = 0; i < draft.writes.size(); ++i) {
      draft.results[which].emplace_back(slot_of(each.outputs()[i]), draft.writes[i]);
    }
  }
  out.push_back(std::move(draft));
}

void CallPlanMaker::method_call(const Node& node, Drafts& out) {
  const std::string& method = node.s(c10::attr::name);
  Draft draft;
  if (const auto hook = object_of<SiteHook>(known(node.input(0)))) {
    draft.reads = slots_of(node.inputs().slice(1));
    draft.writes = draft.reads;
    draft.site = hook;
    if (method == "apply") {
      aliases_[node.output()] = node.input(1);
    } else if (method == "apply_pair") {
      tuples_[node.output()] = {source(node.input(1)), source(node.input(2))};
    } else {
      throw NotFlat(text("a hook's ", method));
    }
    draft.call = plan_operators::site(hook, draft.reads);
  } else if (const auto cache = object_of<KVCache>(known(node.input(0)))) {
    draft.reads = slots_of(node.inputs().slice(1));
    draft.writes = define(node.outputs());
    draft.call = plan_operators::cache_method(cache, method, draft.reads, draft.writes);
  }
  if (!draft.call) throw NotFlat(text("a call of ", method, " of ", node.input(0)->type()->str()));
  out.push_back(std::move(draft));
}

void CallPlanMaker::list(const Node& node, Drafts& out) {
  const c10::TypePtr type = node.output()->type()->expectRef<c10::ListType>().getElementType();
  const auto make = [type](jit::Stack& stack) {
    c10::impl::GenericList list(type);
    for (c10::IValue& element : stack) list.push_back(std::move(element));
    stack.clear();
    stack.emplace_back(std::move(list));
  };
  if (all_known(node.inputs())) {
    jit::Stack stack;
    for (const Value* input : node.inputs()) stack.push_back(*known(input));
    make(stack);
    known_[node.output()] = stack.at(0);
    return;
  }
  Draft draft;
  draft.reads = slots_of(node.inputs());
  draft.writes = define(node.outputs());
  draft.call = plan_operators::boxed(make, draft.reads, draft.writes);
  out.push_back(std::move(draft));
}

void CallPlanMaker::operator_call(const Node& node, Drafts& out) {
  const jit::Operator* found = node.maybeOperator();
  if (found == nullptr || !node.blocks().empty()) throw NotFlat(node.kind().toQualString());
  Draft draft;
  draft.reads = slots_of(node.inputs());
  draft.writes = define(node.outputs());
  draft.is_norm = found->schema().name() == "chatspace::add_rms_norm";
  draft.call = plan_operators::ours(found->schema().name(), draft.reads, draft.writes);
  if (!draft.call) draft.call = plan_operators::boxed(found->getOperation(&node), draft.reads, draft.writes);
  out.push_back(std::move(draft));
}

void CallPlanMaker::join_norms(Drafts& drafts, const std::unordered_set<int32_t>& live) {
  const auto read_later = [&](size_t from, int32_t slot) {
    if (live.count(slot) != 0) return true;
    return std::any_of(drafts.begin() + static_cast<int64_t>(from), drafts.end(), [&](const Draft& draft) {
      return std::find(draft.reads.begin(), draft.reads.end(), slot) != draft.reads.end();
    });
  };
  for (size_t i = 0; i + 1 < drafts.size(); ++i) {
    Draft& site = drafts[i];
    Draft& norm = drafts[i + 1];
    if (!site.site || !norm.is_norm || norm.reads[0] != site.reads[0] || read_later(i + 2, site.reads[0])) continue;
    const bool paired = site.reads.size() == 2;
    if (paired && (norm.reads[1] != site.reads[1] || read_later(i + 2, site.reads[1]))) continue;
    norm.call = plan_operators::site_and_norm(site.site, paired, norm.reads, norm.writes);
    drafts.erase(drafts.begin() + static_cast<int64_t>(i));
    plan_->fused_sites_ += 1;
  }
}

void CallPlanMaker::finish(Drafts drafts, std::unordered_set<int32_t>& live, CallPlan::Block& out) {
  join_norms(drafts, live);
  std::vector<CallPlan::Step> backwards;
  for (auto draft = drafts.rbegin(); draft != drafts.rend(); ++draft) {
    CallPlan::Step step;
    step.call = std::move(draft->call);
    step.condition = draft->condition;
    // Slots whose last reader this is, and results that nobody wants.
    const auto end_here = [&](int32_t slot) {
      if (!plan_->known_[static_cast<size_t>(slot)] && live.count(slot) == 0 &&
          std::find(step.dead.begin(), step.dead.end(), slot) == step.dead.end()) {
        step.dead.push_back(slot);
      }
    };
    for (const int32_t slot : draft->writes) end_here(slot);
    std::unordered_set<int32_t> read(draft->reads.begin(), draft->reads.end());
    for (int which = 0; draft->condition >= 0 && which < 2; ++which) {
      auto branch = std::make_unique<CallPlan::Block>();
      branch->results = draft->results[which];
      // What was there before the branch outlives it: what it reads dies behind the branch, in either case.
      std::unordered_set<int32_t> made;
      for (const Draft& each : draft->branches[which]) made.insert(each.writes.begin(), each.writes.end());
      std::unordered_set<int32_t> inside = live;
      for (const auto& [from, to] : branch->results) {
        inside.insert(from);
        if (made.count(from) != 0) branch->dead.push_back(from);
        if (made.count(from) == 0) read.insert(from);
      }
      for (const Draft& each : draft->branches[which]) {
        for (const int32_t slot : each.reads) {
          if (made.count(slot) != 0) continue;
          inside.insert(slot);
          read.insert(slot);
        }
      }
      finish(std::move(draft->branches[which]), inside, *branch);
      step.branches[which] = std::move(branch);
    }
    for (const int32_t slot : read) end_here(slot);
    for (const int32_t slot : draft->writes) live.erase(slot);
    live.insert(read.begin(), read.end());
    backwards.push_back(std::move(step));
  }
  out.steps.assign(std::make_move_iterator(backwards.rbegin()), std::make_move_iterator(backwards.rend()));
}

}  // namespace chatspace
