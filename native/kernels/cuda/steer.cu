// SPDX-License-Identifier: Apache-2.0
// Launches of the steering kernel: one block a row that has something to do or, in a recorded step, a row
// that might have.
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

__global__ void steer_slot_kernel(SlotArgs args) {
  extern __shared__ float row[];
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  const int64_t index = blockIdx.x;
  steer_slot_row(block, args, index,
                 args.scratch == nullptr ? row : args.scratch + index * (args.hidden + kSteerMaxRank));
}

unsigned threads_for(int64_t hidden) {
  const int64_t wanted = (hidden / 4 + 31) / 32 * 32;
  return static_cast<unsigned>(wanted < 32 ? 32 : wanted > 512 ? 512 : wanted);
}

// 40 KiB at most: below the 48 KiB that every device grants without being asked.
size_t shared_bytes(const float* scratch, int64_t hidden) {
  return scratch == nullptr ? static_cast<size_t>(steer_floats(hidden)) * sizeof(float) : 0;
}

}  // namespace

cudaError_t steer(const SteerArgs& args, cudaStream_t stream) {
  if (args.active == 0) return cudaSuccess;
  steer_kernel<<<static_cast<unsigned>(args.active), threads_for(args.hidden), shared_bytes(args.scratch, args.hidden),
                 stream>>>(args);
  return cudaGetLastError();
}

cudaError_t steer_slot(const SlotArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  steer_slot_kernel<<<static_cast<unsigned>(args.rows), threads_for(args.hidden),
                      shared_bytes(args.scratch, args.hidden), stream>>>(args);
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
