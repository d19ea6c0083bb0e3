// SPDX-License-Identifier: Apache-2.0
// The kernels as the operators see them: one launch (or two) on a stream a function. No torch headers,
// so that nvcc compiles in seconds. A function returns what cudaGetLastError() said after its launches
// and never waits for the device.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/args.h"
#include "kernels/cuda/site_tables.h"

namespace chatspace::cuda {

cudaError_t embed(const EmbedArgs& args, cudaStream_t stream);
cudaError_t rms_norm(const NormArgs& args, cudaStream_t stream);
cudaError_t layer_norm(const NormArgs& args, cudaStream_t stream);
cudaError_t quant_linear(const QuantLinearArgs& args, cudaStream_t stream);
cudaError_t unpack(const UnpackArgs& args, cudaStream_t stream);
cudaError_t quant_embed(const QuantEmbedArgs& args, cudaStream_t stream);
cudaError_t activate(const ActivationArgs& args, cudaStream_t stream);

// The three of one attention layer, in this order on one stream.
// 1. Norm and rotary embedding of q and k; k and v into the cache; finds the single rows.
cudaError_t rotary_and_cache(const AttentionArgs& args, cudaStream_t stream);
// 2. Rows that are their sequence's only row of the step.
cudaError_t attend_single_rows(const AttentionArgs& args, cudaStream_t stream);
// 3. Rows of sequences that have several rows in the step (prompt chunks).
cudaError_t attend_chunks(const AttentionArgs& args, cudaStream_t stream);

cudaError_t steer(const SteerArgs& args, cudaStream_t stream);
// One site of a recorded step: what there is to do is read on the device.
cudaError_t steer_slot(const SlotArgs& args, cudaStream_t stream);
// Steering and the rms_norm() of every row after it; made to give the bits of the two launches.
cudaError_t steer_norm(const SteerNormArgs& args, cudaStream_t stream);
cudaError_t steer_norm_slot(const SlotNormArgs& args, cudaStream_t stream);

}  // namespace chatspace::cuda
