// SPDX-License-Identifier: Apache-2.0
// The operators and the cache class by the names TorchScript calls them. One catch-all function each:
// the device is that of the input, so nothing goes through the dispatcher's keys and a call costs about
// a tenth of a microsecond in the interpreter.
#include <torch/library.h>

#include "ops/kv_cache.h"
#include "ops/operators.h"

namespace chatspace {

TORCH_LIBRARY(chatspace, m) {
  m.class_<KVCache>("KVCache")
      .def(torch::init<const std::string&>())
      .def("attend", &KVCache::attend)
      .def("positions", &KVCache::positions)
      .def_pickle([](const c10::intrusive_ptr<KVCache>& self) -> std::string { return self->spec(); },
                  [](std::string spec) { return c10::make_intrusive<KVCache>(spec); });
  m.def("embed(Tensor tokens, Tensor weight) -> Tensor", &operators::embed);
  m.def("add_rms_norm(Tensor delta, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
        &operators::add_rms_norm);
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", &operators::rms_norm);
  m.def("add_layer_norm(Tensor delta, Tensor residual, Tensor weight, Tensor? bias, float eps) -> (Tensor, Tensor)",
        &operators::add_layer_norm);
  m.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", &operators::linear);
  m.def(
      "linear3(Tensor x, Tensor wq, Tensor wk, Tensor wv, Tensor? bq=None, Tensor? bk=None, Tensor? bv=None) -> "
      "Tensor",
      &operators::linear3);
  m.def(
      "gated_mlp(Tensor x, Tensor gate, Tensor up, Tensor down, Tensor? gate_bias, Tensor? up_bias, "
      "Tensor? down_bias, str act) -> Tensor",
      &operators::gated_mlp);
  m.def("mlp(Tensor x, Tensor up, Tensor? up_bias, Tensor down, Tensor? down_bias, str act) -> Tensor",
        &operators::mlp);
}

}  // namespace chatspace
