// SPDX-License-Identifier: Apache-2.0
#include "decoder/join_matrices.h"

#include <vector>

namespace chatspace {
namespace {

void join(torch::jit::Module& module, const std::vector<std::string>& names) {
  std::vector<at::Tensor> parts;
  for (const std::string& name : names) {
    if (!module.hasattr(name) || !module.attr(name).isTensor()) return;
    const at::Tensor part = module.attr(name).toTensor();
    if (!part.defined() || part.dim() != 2 || !part.is_floating_point()) return;
    if (!parts.empty() && (part.size(1) != parts[0].size(1) || part.scalar_type() != parts[0].scalar_type())) return;
    parts.push_back(part);
  }
  const at::Tensor joined = at::cat(parts);
  int64_t first = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    module.setattr(names[i], joined.narrow(0, first, parts[i].size(0)));
    first += parts[i].size(0);
  }
}

}  // namespace

void join_matrices(torch::jit::Module& root) {
  for (torch::jit::Module module : root.modules()) {
    join(module, {"q", "k", "v"});
    join(module, {"gate", "up"});
  }
}

}  // namespace chatspace
