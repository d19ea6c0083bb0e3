// SPDX-License-Identifier: Apache-2.0
// The operators chatspace::* as C++ functions: what TorchScript calls through the dispatcher (library.cc) and
// a flat list of calls calls as it is (decoder/call_plan.h). The device is that of the input.
#pragma once

#include <tuple>
#include <utility>

#include "ops/backend.h"

namespace chatspace::operators {

inline at::Tensor embed(const at::Tensor& tokens, const at::Tensor& weight) {
  return backend_of(weight).embed(tokens, weight);
}

// TorchScript reads `x, residual = ...`: the norm first. The backends answer (residual', norm).
inline std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                const at::Tensor& weight, double eps) {
  TORCH_CHECK(residual.defined(), "chatspace: add_rms_norm needs a residual");
  auto [sum, normed] = backend_of(delta).add_rms_norm(delta, residual, weight, eps);
  return {std::move(normed), std::move(sum)};
}

inline at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return backend_of(x).rms_norm(x, weight, eps);
}

inline std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                  const at::Tensor& weight, const OptionalTensor& bias, double eps) {
  TORCH_CHECK(residual.defined(), "chatspace: add_layer_norm needs a residual");
  auto [sum, normed] = backend_of(delta).add_layer_norm(delta, residual, weight, bias, eps);
  return {std::move(normed), std::move(sum)};
}

inline at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  return backend_of(x).linear(x, weight, bias);
}

inline at::Tensor linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                   const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) {
  return backend_of(x).linear3(x, wq, wk, wv, bq, bk, bv);
}

inline at::Tensor gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down,
                     const OptionalTensor& gate_bias, const OptionalTensor& up_bias, const OptionalTensor& down_bias,
                     c10::string_view act) {
  return backend_of(x).gated_mlp(x, gate, up, down, gate_bias, up_bias, down_bias, act);
}

inline at::Tensor mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias, const at::Tensor& down,
               const OptionalTensor& down_bias, c10::string_view act) {
  return backend_of(x).mlp(x, up, up_bias, down, down_bias, act);
}

}  // namespace chatspace::operators
