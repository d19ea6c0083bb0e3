// SPDX-License-Identifier: Apache-2.0
#include "decoder/surgery.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/frontend/schema_matching.h>
#include <torch/csrc/jit/ir/ir.h>

#include "errors.h"

namespace chatspace {

namespace jit = torch::jit;

namespace {

constexpr const char* kAttribute = "__chatspace_hook";

std::shared_ptr<jit::Graph> graph_of(const jit::Module& module) {
  return jit::toGraphFunction(module.get_method("forward").function()).graph();
}

// Emits hook.method(arguments...) at the insert point.
jit::Value* call_hook(jit::Graph& graph, jit::Value* hook, const std::string& method,
                      at::ArrayRef<jit::NamedValue> arguments) {
  const auto& schema = hook->type()->expect<c10::ClassType>()->getMethod(method).getSchema();
  std::vector<jit::NamedValue> all{jit::NamedValue(hook)};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const jit::MatchedSchema matched = jit::matchSchema(schema, jit::SourceRange(), graph, all, {});
  return graph.insertMethodCall(method, matched);
}

jit::Value* tensor_list(jit::Graph& graph, const std::vector<jit::Value*>& values) {
  return graph.insertNode(graph.createList(c10::TensorType::get(), values))->output();
}

bool is_optional_tensor(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->isSubtypeOf(*c10::TensorType::get());
}

// The tensors among `values`, those in tuples too, absent ones as None.
void gather_inputs(jit::Graph& graph, at::ArrayRef<jit::Value*> values, std::vector<jit::Value*>& tensors) {
  for (jit::Value* value : values) {
    if (value->type()->isSubtypeOf(*c10::TensorType::get()) || is_optional_tensor(value->type())) {
      tensors.push_back(value);
    } else if (value->type()->kind() == c10::TypeKind::TupleType) {
      gather_inputs(graph, graph.insertNode(graph.createTupleUnpack(value))->outputs(), tensors);
    }
  }
}

void retarget(jit::Block& block, const std::string& device) {
  for (jit::Node* node : block.nodes()) {
    for (jit::Block* inner : node->blocks()) retarget(*inner, device);
    if (node->kind() != c10::prim::Constant || !node->hasAttribute(c10::attr::value)) continue;
    if (node->output()->type()->kind() == c10::TypeKind::DeviceObjType) node->s_(c10::attr::value, device);
  }
}

}  // namespace

bool Surgeon::attach(jit::Module& module, const c10::intrusive_ptr<SiteHook>& hook) {
  const auto type = module.type();
  if (!type->hasAttribute(kAttribute)) {
    type->addAttribute(kAttribute, c10::getCustomClassType<c10::intrusive_ptr<SiteHook>>());
  }
  module._ivalue()->setAttr(kAttribute, c10::IValue(hook));
  return cut_.insert(type.get()).second;
}

void Surgeon::install(jit::Module& module, const c10::intrusive_ptr<SiteHook>& hook, const OutputForm& form) {
  if (!attach(module, hook)) return;
  auto graph = graph_of(module);
  jit::Node* end = graph->return_node();
  jit::WithInsertPoint guard(end);
  jit::Value* self = graph->inputs().at(0);
  jit::Value* object = graph->insertGetAttr(self, kAttribute);
  jit::Value* out = end->input(0);
  if (form.kind == OutputForm::Kind::kTensor) {
    end->replaceInput(0, call_hook(*graph, object, "apply", {jit::NamedValue(out)}));
    return;
  }
  const auto tuple_type = out->type()->expect<c10::TupleType>();
  std::vector<jit::Value*> elements = graph->insertNode(graph->createTupleUnpack(out))->outputs().vec();
  const size_t first = static_cast<size_t>(form.first);
  if (form.kind == OutputForm::Kind::kElement) {
    elements.at(first) = call_hook(*graph, object, "apply", {jit::NamedValue(elements.at(first))});
  } else {
    const size_t second = static_cast<size_t>(form.second);
    jit::Value* pair = call_hook(*graph, object, "apply_pair",
                                 {jit::NamedValue(elements.at(first)), jit::NamedValue(elements.at(second))});
    auto parts = graph->insertNode(graph->createTupleUnpack(pair))->outputs();
    elements.at(first) = parts.at(0);
    elements.at(second) = parts.at(1);
  }
  jit::Value* rebuilt = graph->insertNode(graph->createTuple(elements))->output();
  // The declared return type (a named tuple, say) must stay what callers were compiled against.
  if (tuple_type->schema() != nullptr) rebuilt->setType(tuple_type);
  end->replaceInput(0, rebuilt);
}

void Surgeon::observe(jit::Module& module, const c10::intrusive_ptr<SiteHook>& hook) {
  if (!attach(module, hook)) return;
  auto graph = graph_of(module);
  jit::Value* self = graph->inputs().at(0);
  {
    jit::WithInsertPoint guard(*graph->nodes().begin());
    jit::Value* object = graph->insertGetAttr(self, kAttribute);
    std::vector<jit::Value*> tensors;
    gather_inputs(*graph, graph->inputs().slice(1), tensors);
    jit::Value* list = graph->insertNode(graph->createList(c10::OptionalType::ofTensor(), tensors))->output();
    call_hook(*graph, object, "observe_inputs", {jit::NamedValue(list)});
  }
  jit::Node* end = graph->return_node();
  jit::WithInsertPoint guard(end);
  jit::Value* object = graph->insertGetAttr(self, kAttribute);
  jit::Value* out = end->input(0);
  std::vector<jit::Value*> tensors;
  if (out->type()->isSubtypeOf(*c10::TensorType::get())) {
    tensors.push_back(out);
  } else if (auto tuple = out->type()->cast<c10::TupleType>()) {
    for (jit::Value* element : graph->insertNode(graph->createTupleUnpack(out))->outputs()) {
      if (element->type()->isSubtypeOf(*c10::TensorType::get())) tensors.push_back(element);
    }
  }
  call_hook(*graph, object, "observe_outputs", {jit::NamedValue(tensor_list(*graph, tensors))});
}

void retarget_devices(const jit::Module& root, const std::string& device) {
  std::unordered_set<const void*> done;
  for (const jit::Module& module : root.modules()) {
    if (!done.insert(module.type().get()).second) continue;
    for (const auto& method : module.get_methods()) {
      retarget(*jit::toGraphFunction(method.function()).graph()->block(), device);
    }
  }
}

std::string return_form(const jit::Module& module) {
  if (!module.find_method("forward")) return "other";
  const auto type = graph_of(module)->return_node()->input(0)->type();
  if (type->isSubtypeOf(*c10::TensorType::get())) return "tensor";
  if (auto tuple = type->cast<c10::TupleType>()) return text("tuple:", tuple->elements().size());
  return "other";
}

}  // namespace chatspace
