// SPDX-License-Identifier: Apache-2.0
// Launch of the steering kernel: one block a row that has something to do.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/steer_row.cuh"

namespace chatspace::cuda {
namespace {

__global__ void steer_kernel(SteerArgs args) {
  extern __shared__ float row[];
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  const int64_t index = blockIdx.x;
  steer_row(block, args, args.rows[index],
            args.scratch == nullptr ? row : args.scratch + index * (args.hidden + kSteerMaxRank));
}

}  // namespace

cudaError_t steer(const SteerArgs& args, cudaStream_t stream) {
  if (args.active == 0) return cudaSuccess;
  const int64_t wanted = (args.hidden / 4 + 31) / 32 * 32;
  const unsigned threads = static_cast<unsigned>(wanted < 32 ? 32 : wanted > 512 ? 512 : wanted);
  // 40 KiB at most: below the 48 KiB that every device grants without being asked.
  const size_t bytes = args.scratch == nullptr ? static_cast<size_t>(steer_floats(args.hidden)) * sizeof(float) : 0;
  steer_kernel<<<static_cast<unsigned>(args.active), threads, bytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
