// SPDX-License-Identifier: Apache-2.0
// The operators and the cache class by the names TorchScript calls them. One catch-all function each:
// the device is that of the input, so nothing goes through the dispatcher's keys and a call costs about
// a tenth of a microsecond in the interpreter.
#include <torch/library.h>

#include "ops/backend.h"
#include "ops/kv_cache.h"

namespace chatspace {
namespace {

at::Tensor embed(const at::Tensor& tokens, const at::Tensor& weight) {
  return backend_of(weight).embed(tokens, weight);
}

// TorchScript reads `x, residual = ...`: the norm first. The backends answer (residual', norm).
std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                const at::Tensor& weight, double eps) {
  TORCH_CHECK(residual.defined(), "chatspace: add_rms_norm needs a residual");
  auto [sum, normed] = backend_of(delta).add_rms_norm(delta, residual, weight, eps);
  return {std::move(normed), std::move(sum)};
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return backend_of(x).rms_norm(x, weight, eps);
}

std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                  const at::Tensor& weight, const OptionalTensor& bias, double eps) {
  TORCH_CHECK(residual.defined(), "chatspace: add_layer_norm needs a residual");
  auto [sum, normed] = backend_of(delta).add_layer_norm(delta, residual, weight, bias, eps);
  return {std::move(normed), std::move(sum)};
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  return backend_of(x).linear(x, weight, bias);
}

at::Tensor linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                   const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) {
  return backend_of(x).linear3(x, wq, wk, wv, bq, bk, bv);
}

at::Tensor gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down,
                     const OptionalTensor& gate_bias, const OptionalTensor& up_bias, const OptionalTensor& down_bias,
                     c10::string_view act) {
  return backend_of(x).gated_mlp(x, gate, up, down, gate_bias, up_bias, down_bias, act);
}

at::Tensor mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias, const at::Tensor& down,
               const OptionalTensor& down_bias, c10::string_view act) {
  return backend_of(x).mlp(x, up, up_bias, down, down_bias, act);
}

}  // namespace

TORCH_LIBRARY(chatspace, m) {
  m.class_<KVCache>("KVCache")
      .def(torch::init<const std::string&>())
      .def("attend", &KVCache::attend)
      .def("positions", &KVCache::positions)
      .def_pickle([](const c10::intrusive_ptr<KVCache>& self) -> std::string { return self->spec(); },
                  [](std::string spec) { return c10::make_intrusive<KVCache>(spec); });
  m.def("embed(Tensor tokens, Tensor weight) -> Tensor", &embed);
  m.def("add_rms_norm(Tensor delta, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)", &add_rms_norm);
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", &rms_norm);
  m.def("add_layer_norm(Tensor delta, Tensor residual, Tensor weight, Tensor? bias, float eps) -> (Tensor, Tensor)",
        &add_layer_norm);
  m.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", &linear);
  m.def(
      "linear3(Tensor x, Tensor wq, Tensor wk, Tensor wv, Tensor? bq=None, Tensor? bk=None, Tensor? bv=None) -> "
      "Tensor",
      &linear3);
  m.def(
      "gated_mlp(Tensor x, Tensor gate, Tensor up, Tensor down, Tensor? gate_bias, Tensor? up_bias, "
      "Tensor? down_bias, str act) -> Tensor",
      &gated_mlp);
  m.def("mlp(Tensor x, Tensor up, Tensor? up_bias, Tensor down, Tensor? down_bias, str act) -> Tensor", &mlp);
}

}  // namespace chatspace
