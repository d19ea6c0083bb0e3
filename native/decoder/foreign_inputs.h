// SPDX-License-Identifier: Apache-2.0
// What a stranger's forward takes and returns, told by its schema, the names in it and the kinds of its values.
#pragma once

#include <torch/script.h>

#include <cstdint>
#include <string>

namespace chatspace {

// Which argument of forward takes what; -1 = it has none.
struct ForeignInputs {
  int64_t tokens = -1;
  int64_t mask = -1;
  int64_t positions = -1;
  int64_t cache_positions = -1;  // positions as one row, [tokens]
  int64_t past = -1;
  int64_t use_cache = -1;
  int64_t count = 0;
};

// Throws Error ERR_ARCHIVE_INPUTS where an argument cannot be filled; `path` names the archive in it.
ForeignInputs find_foreign_inputs(const torch::jit::Module& module, const std::string& path);

// The logits are the first floating tensor of the outputs, or the entry of that name; undefined = none.
at::Tensor foreign_logits(const c10::IValue& outputs);

// The past that comes back: the first list or tuple among the outputs, or the entry whose name says so; None = none.
c10::IValue foreign_past(const c10::IValue& outputs);

}  // namespace chatspace
