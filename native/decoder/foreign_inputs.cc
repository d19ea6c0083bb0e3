// SPDX-License-Identifier: Apache-2.0
#include "decoder/foreign_inputs.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "errors.h"

namespace chatspace {
namespace {

bool contains(const std::string& name, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return name.find(part) != std::string::npos; });
}

bool is_tensor(const c10::TypePtr& type) {
  if (type->isSubtypeOf(*c10::TensorType::get())) return true;
  const auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->isSubtypeOf(*c10::TensorType::get());
}

// A past is a list or tuple of tensors (or of lists of them); a flag that says "cache" is none.
bool is_collection(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  const auto kind = optional ? optional->getElementType()->kind() : type->kind();
  return kind == c10::TypeKind::ListType || kind == c10::TypeKind::TupleType || kind == c10::TypeKind::AnyType;
}

bool is_flag(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  return (optional ? optional->getElementType()->kind() : type->kind()) == c10::TypeKind::BoolType;
}

// Which tensor argument takes the tokens: the one so named, else the first.
int64_t token_argument(const std::vector<c10::Argument>& arguments) {
  int64_t first = -1;
  for (size_t i = 1; i < arguments.size(); ++i) {
    if (!is_tensor(arguments[i].type())) continue;
    const std::string& name = arguments[i].name();
    if (name == "input_ids" || name == "tokens" || name == "token_ids" || name == "ids") {
      return static_cast<int64_t>(i) - 1;
    }
    if (first < 0 && !contains(name, {"mask", "position", "embed"})) first = static_cast<int64_t>(i) - 1;
  }
  return first;
}

}  // namespace

ForeignInputs find_foreign_inputs(const torch::jit::Module& module, const std::string& path) {
  ForeignInputs inputs;
  if (!module.find_method("forward")) {
    throw Error("ERR_ARCHIVE_INPUTS", text(path, ": the module has no forward method"), {{"path", path}});
  }
  const auto& arguments = module.get_method("forward").function().getSchema().arguments();
  inputs.count = static_cast<int64_t>(arguments.size()) - 1;
  inputs.tokens = token_argument(arguments);
  std::string unknown;
  for (int64_t i = 0; i < inputs.count; ++i) {
    const auto& argument = arguments[static_cast<size_t>(i + 1)];
    const std::string& name = argument.name();
    const bool tensor = is_tensor(argument.type());
    if (i == inputs.tokens) continue;
    if (tensor && contains(name, {"mask"})) {
      inputs.mask = i;
    } else if (tensor && contains(name, {"cache_position"})) {
      inputs.cache_positions = i;
    } else if (tensor && contains(name, {"position"})) {
      inputs.positions = i;
    } else if (is_collection(argument.type()) && inputs.past < 0 &&
               (contains(name, {"past", "cache"}) || !argument.default_value())) {
      inputs.past = i;
    } else if (is_flag(argument.type()) && contains(name, {"use_cache"})) {
      inputs.use_cache = i;
    } else if (!argument.default_value()) {
      unknown += text(unknown.empty() ? "" : ", ", name, ": ", argument.type()->str());
    }
  }
  if (inputs.tokens < 0 || !unknown.empty()) {
    throw Error("ERR_ARCHIVE_INPUTS",
                text(path, ": expected forward(input_ids, attention mask?, position ids?, past?), got ",
                     unknown.empty() ? "no tensor argument" : "an argument that cannot be filled: " + unknown),
                {{"path", path}});
  }
  return inputs;
}

at::Tensor foreign_logits(const c10::IValue& value) {
  if (value.isTensor()) {
    return value.toTensor().is_floating_point() && value.toTensor().dim() >= 2 ? value.toTensor() : at::Tensor();
  }
  if (value.isGenericDict()) {
    const auto dict = value.toGenericDict();
    if (dict.contains("logits")) return dict.at("logits").toTensor();
    for (const auto& entry : dict) {
      if (at::Tensor found = foreign_logits(entry.value()); found.defined()) return found;
    }
  }
  if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) {
      if (at::Tensor found = foreign_logits(element); found.defined()) return found;
    }
  }
  return {};
}

c10::IValue foreign_past(const c10::IValue& value) {
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      if (entry.key().isString() && contains(entry.key().toStringRef(), {"past", "cache"})) return entry.value();
    }
    return {};
  }
  if (!value.isTuple()) return {};
  for (const auto& element : value.toTupleRef().elements()) {
    if (element.isList() || element.isTensorList() || element.isTuple()) return element;
  }
  return {};
}

}  // namespace chatspace
