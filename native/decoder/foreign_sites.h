// SPDX-License-Identifier: Apache-2.0
// How the modules of a stranger's archive return their state, learned from one observed forward. What a
// layer returns (its state, one element of a tuple, or a delta and a residual) is told by what the next
// layer, or the final norm behind the last one, received; a module that is not called exactly once in a
// forward is no site.
#pragma once

#include <torch/script.h>

#include <string>
#include <vector>

#include "decoder/surgery.h"

namespace chatspace {

struct LearnedSite {
  std::string path;
  int64_t width = 0;
  OutputForm form;
  double magnitude = 0.0;  // of a pair: largest absolute value seen in it
  int64_t order = 0;       // ascends in the order the forward left the modules
};

class SiteProbe {
 public:
  // Puts observers on every module of `root` that has a forward, but the root itself.
  explicit SiteProbe(torch::jit::Module& root);
  bool reached(const std::string& path) const;
  // Later forwards leave what was seen alone.
  void stop();
  // After the forward of `rows` tokens. Throws ERR_LAYER_OUTPUT when a layer's convention is unclear.
  std::vector<LearnedSite> learn(const std::string& layers_path, int64_t layers, int64_t rows,
                                 const std::string& archive) const;

 private:
  struct Observed {
    std::string path;
    c10::intrusive_ptr<SiteHook> hook;
    std::vector<int64_t> elements;  // of the returned tuple that are tensors; empty = a plain tensor
  };
  const Observed* find(const std::string& path) const;
  const Observed* after_layers(const std::string& layers_path) const;
  bool learn_layer(const Observed& layer, const Observed& next, LearnedSite& out) const;

  std::vector<Observed> observed_;
};

// "model.layers.3.self_attn" -> "layers.3.attn" and the like; other paths name themselves.
std::string canonical_name(const std::string& path, const std::string& layers_path);

}  // namespace chatspace
