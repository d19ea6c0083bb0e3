// SPDX-License-Identifier: Apache-2.0
#include "decoder/plan_operators.h"

#include <array>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ops/operators.h"

namespace chatspace::plan_operators {
namespace {

// An argument as the function takes it; tensors by reference.
template <class T>
decltype(auto) argument(const c10::IValue& value) {
  if constexpr (std::is_same_v<T, at::Tensor>) {
    return value.toTensor();
  } else if constexpr (std::is_same_v<T, OptionalTensor>) {
    return value.toOptional<at::Tensor>();
  } else if constexpr (std::is_same_v<T, c10::string_view>) {
    return value.toStringView();
  } else {
    return value.to<T>();
  }
}

void keep(c10::IValue* slots, const std::array<int32_t, 2>& writes, at::Tensor result) {
  slots[writes[0]] = std::move(result);
}

void keep(c10::IValue* slots, const std::array<int32_t, 2>& writes, std::tuple<at::Tensor, at::Tensor> results) {
  slots[writes[0]] = std::move(std::get<0>(results));
  slots[writes[1]] = std::move(std::get<1>(results));
}

std::array<int32_t, 2> two(const Slots& writes) {
  TORCH_INTERNAL_ASSERT(writes.size() == 1 || writes.size() == 2);
  return {writes.front(), writes.back()};
}

template <class R, class... Args, size_t... I>
CallPlan::Call unboxed(R (*function)(Args...), const Slots& reads, const Slots& writes, std::index_sequence<I...>) {
  TORCH_CHECK(reads.size() == sizeof...(Args), "chatspace: a call takes ", sizeof...(Args), " arguments, got ",
              reads.size());
  return [function, from = std::array<int32_t, sizeof...(Args)>{reads[I]...}, to = two(writes)](c10::IValue* slots) {
    keep(slots, to, function(argument<std::decay_t<Args>>(slots[from[I]])...));
  };
}

template <class R, class... Args>
CallPlan::Call unboxed(R (*function)(Args...), const Slots& reads, const Slots& writes) {
  return unboxed(function, reads, writes, std::index_sequence_for<Args...>());
}

}  // namespace

CallPlan::Call ours(const std::string& name, const Slots& reads, const Slots& writes) {
  if (name == "chatspace::embed") return unboxed(&operators::embed, reads, writes);
  if (name == "chatspace::add_rms_norm") return unboxed(&operators::add_rms_norm, reads, writes);
  if (name == "chatspace::rms_norm") return unboxed(&operators::rms_norm, reads, writes);
  if (name == "chatspace::add_layer_norm") return unboxed(&operators::add_layer_norm, reads, writes);
  if (name == "chatspace::linear") return unboxed(&operators::linear, reads, writes);
  if (name == "chatspace::linear3") return unboxed(&operators::linear3, reads, writes);
  if (name == "chatspace::gated_mlp") return unboxed(&operators::gated_mlp, reads, writes);
  if (name == "chatspace::mlp") return unboxed(&operators::mlp, reads, writes);
  return {};
}

CallPlan::Call boxed(torch::jit::Operation operation, const Slots& reads, const Slots& writes) {
  return [operation = std::move(operation), reads, writes](c10::IValue* slots) mutable {
    torch::jit::Stack stack;
    stack.reserve(std::max(reads.size(), writes.size()));
    for (const int32_t slot : reads) stack.push_back(slots[slot]);
    operation(stack);
    TORCH_INTERNAL_ASSERT(stack.size() == writes.size());
    for (size_t i = 0; i < writes.size(); ++i) slots[writes[i]] = std::move(stack[i]);
  };
}

CallPlan::Call site(const c10::intrusive_ptr<SiteHook>& hook, const Slots& reads) {
  return [hook, delta = reads.front(), residual = reads.size() == 2 ? reads[1] : -1](c10::IValue* slots) {
    if (hook->idle()) return;
    at::Tensor rows = slots[delta].toTensor();
    at::Tensor beside = residual < 0 ? at::Tensor() : slots[residual].toTensor();
    hook->steer(rows, beside);
    slots[delta] = std::move(rows);
    if (residual >= 0) slots[residual] = std::move(beside);
  };
}

CallPlan::Call site_and_norm(const c10::intrusive_ptr<SiteHook>& hook, bool paired, const Slots& reads,
                             const Slots& writes) {
  return [hook, paired, norm = unboxed(&operators::add_rms_norm, reads, writes), delta = reads.at(0),
          residual = reads.at(1), weight = reads.at(2), eps = reads.at(3), to = two(writes)](c10::IValue* slots) {
    if (hook->idle()) return norm(slots);
    at::Tensor rows = slots[delta].toTensor();
    at::Tensor beside = slots[residual].toTensor();
    keep(slots, to,
         hook->steer_add_rms_norm(paired, rows, beside, slots[weight].toTensor(), slots[eps].toDouble()));
  };
}

CallPlan::Call cache_method(const c10::intrusive_ptr<KVCache>& cache, const std::string& method, const Slots& reads,
                            const Slots& writes) {
  if (method == "positions") {
    return [cache, to = writes.at(0)](c10::IValue* slots) { slots[to] = cache->positions(); };
  }
  if (method != "attend") return {};
  return [cache, layer = reads.at(0), qkv = reads.at(1), q_norm = reads.at(2), k_norm = reads.at(3),
          eps = reads.at(4), to = writes.at(0)](c10::IValue* slots) {
    slots[to] = cache->attend(slots[layer].toInt(), slots[qkv].toTensor(), slots[q_norm].toOptional<at::Tensor>(),
                              slots[k_norm].toOptional<at::Tensor>(), slots[eps].toDouble());
  };
}

}  // namespace chatspace::plan_operators
