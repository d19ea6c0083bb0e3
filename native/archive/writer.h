// SPDX-License-Identifier: Apache-2.0
// Writes a decoder archive (TorchScript, torch.jit.save format) from a plan.
#pragma once

#include <cstdint>
#include <functional>

#include "archive/plan.h"

namespace chatspace {

// Called on the thread that writes, some times a second of work; an exception from it ends the
// conversion and is rethrown to the caller.
using ConvertProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// Compiles the sources, maps the weight files and streams them into plan.output. Weights are stored as
// in the source, or as their `store` says: F32, F16 and BF16 as tensors, block types as their bytes (uint8, one
// dimension), with the real type and shape in the extra file "weights.txt". Nothing is left behind on failure; on
// success the file is complete and on disk under its final name.
//
// Memory: pages of the source and of the scratch file are dropped as they are written, so the peak is
// about one tensor. Throws Error: ERR_CONVERT_PLAN (the plan contradicts itself or the files),
// ERR_CONVERT_SOURCE (TorchScript does not compile), ERR_CONVERT_READ, ERR_CONVERT_WRITE.
void write_archive(const ConvertPlan& plan, const ConvertProgress& progress);

}  // namespace chatspace
