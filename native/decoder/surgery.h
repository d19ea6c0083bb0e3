// SPDX-License-Identifier: Apache-2.0
// Graph surgery: how steering gets into a TorchScript module without patching anything at run time.
//
// The module's class gets an attribute that holds a SiteHook, each instance its own; the class's
// forward graph gets, before its return, a call of that hook with the output. Instances of one class
// share one graph, so the graph is cut once. Must happen before the first run of the module: the
// executor copies graphs when it first compiles them.
#pragma once

#include <torch/script.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "steering/site.h"

namespace chatspace {

// Which of a module's outputs the hook takes.
struct OutputForm {
  enum class Kind { kTensor, kElement, kPair } kind = Kind::kTensor;
  int64_t first = 0;   // element of the tuple (kElement), delta (kPair)
  int64_t second = 1;  // residual (kPair)
};

class Surgeon {
 public:
  // Puts `hook` behind `module`'s forward.
  void install(torch::jit::Module& module, const c10::intrusive_ptr<SiteHook>& hook, const OutputForm& form);
  // Puts an observer before and behind it (probe at load time).
  void observe(torch::jit::Module& module, const c10::intrusive_ptr<SiteHook>& hook);

 private:
  bool attach(torch::jit::Module& module, const c10::intrusive_ptr<SiteHook>& hook);
  std::unordered_set<const void*> cut_;  // classes whose graph has its call
};

// Points the devices that a trace wrote into the graphs of `root` at another one. Before the first run.
void retarget_devices(const torch::jit::Module& root, const std::string& device);

// How a module's forward returns, from its graph alone: "tensor", "tuple:N" (N elements), "other".
std::string return_form(const torch::jit::Module& module);

}  // namespace chatspace
