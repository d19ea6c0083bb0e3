// SPDX-License-Identifier: Apache-2.0
// The library's flash attention for the prompt chunks of a step.
#pragma once

#include "kernels/cuda/args.h"
#include "ops/backend.h"

namespace chatspace::cuda {

// Computes the chunks' rows of `out`, which args.out points into; after rotary_and_cache() on the same stream.
// False, with nothing done, where the call names no chunks or the library cannot compute them.
bool attend_by_library(const AttentionCall& call, const AttentionArgs& args, const at::Tensor& out);

}  // namespace chatspace::cuda
