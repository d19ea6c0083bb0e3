// SPDX-License-Identifier: Apache-2.0
// The kernels around the library's flash attention, as kernels/cuda/launch.h.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/flash_args.h"

namespace chatspace::cuda {

// Fills dense_queries, dense_keys and dense_values. After rotary_and_cache() on the same stream.
cudaError_t flash_gather(const FlashArgs& args, cudaStream_t stream);
// dense_results into the chunks' rows of `out`.
cudaError_t flash_spread(const FlashArgs& args, cudaStream_t stream);

}  // namespace chatspace::cuda
