// SPDX-License-Identifier: Apache-2.0
// A TorchScript archive opened from a file: the module, its extra files, its size and hash. The only
// place that knows the archive format, so that a successor of TorchScript has one seam to fit.
#pragma once

#include <torch/script.h>

#include <map>
#include <string>
#include <vector>

namespace chatspace {

struct Archive {
  torch::jit::Module module;
  std::map<std::string, std::string> extra_files;
  int64_t weight_bytes = 0;
  std::string weight_hash;  // sha256 over the weight records in order of name, hex
};

// Checks the file (present, a zip, a TorchScript archive) before it loads it.
Archive open_archive(const std::string& path);

// "a.b.c" -> the submodule; throws when there is none.
torch::jit::Module submodule(const torch::jit::Module& root, const std::string& path);

// The longest list of submodules of one class named 0, 1, 2, ... that lies in no other: path -> count.
// "" when there is none.
std::pair<std::string, int64_t> find_layers(const torch::jit::Module& root);

std::vector<std::pair<std::string, std::string>> module_tree(const torch::jit::Module& root);

}  // namespace chatspace
