// SPDX-License-Identifier: Apache-2.0
// Launches of the steering kernel: one block a row that has something to do or, in a recorded step, a row
// that might have. With the norm that follows, one block a row of the step.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_threads.h"
#include "kernels/cuda/steer_norm_row.cuh"

namespace chatspace::cuda {
namespace {

__global__ void __launch_bounds__(kMostRowThreads) steer_kernel(SteerArgs args) {
  extern __shared__ float row[];
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  const int64_t index = blockIdx.x;
  steer_row(block, args, args.rows[index],
            args.scratch == nullptr ? row : args.scratch + index * (args.hidden + kSteerMaxRank));
}

__global__ void __launch_bounds__(kMostRowThreads) steer_slot_kernel(SlotArgs args) {
  extern __shared__ float row[];
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  const int64_t index = blockIdx.x;
  steer_slot_row(block, args, index,
                 args.scratch == nullptr ? row : args.scratch + index * (args.hidden + kSteerMaxRank));
}

__global__ void __launch_bounds__(kMostRowThreads) steer_norm_kernel(SteerNormArgs args) {
  extern __shared__ float row[];
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  const int64_t index = blockIdx.x;
  float* h = row;
  if (args.steer.scratch != nullptr) {
    const int64_t work = find_work(args.steer.rows, args.steer.active, args.norm.rows, index);
    h = args.steer.scratch + (work < 0 ? 0 : work) * (args.steer.hidden + kSteerMaxRank);
  }
  steer_norm_row(block, args, index, h);
}

__global__ void __launch_bounds__(kMostRowThreads) steer_norm_slot_kernel(SlotNormArgs args) {
  extern __shared__ float row[];
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  const int64_t index = blockIdx.x;
  steer_norm_slot_row(block, args, index,
                      args.slot.scratch == nullptr ? row
                                                   : args.slot.scratch + index * (args.slot.hidden + kSteerMaxRank));
}

// 40 KiB at most: below the 48 KiB that every device grants without being asked.
size_t shared_bytes(const float* scratch, int64_t hidden) {
  return scratch == nullptr ? static_cast<size_t>(steer_floats(hidden)) * sizeof(float) : 0;
}

}  // namespace

cudaError_t steer(const SteerArgs& args, cudaStream_t stream) {
  if (args.active == 0) return cudaSuccess;
  steer_kernel<<<static_cast<unsigned>(args.active), row_threads(args.hidden), shared_bytes(args.scratch, args.hidden),
                 stream>>>(args);
  return cudaGetLastError();
}

cudaError_t steer_slot(const SlotArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  steer_slot_kernel<<<static_cast<unsigned>(args.rows), row_threads(args.hidden),
                      shared_bytes(args.scratch, args.hidden), stream>>>(args);
  return cudaGetLastError();
}

cudaError_t steer_norm(const SteerNormArgs& args, cudaStream_t stream) {
  if (args.norm.rows == 0) return cudaSuccess;
  steer_norm_kernel<<<static_cast<unsigned>(args.norm.rows), row_threads(args.norm.hidden),
                      shared_bytes(args.steer.scratch, args.norm.hidden), stream>>>(args);
  return cudaGetLastError();
}

cudaError_t steer_norm_slot(const SlotNormArgs& args, cudaStream_t stream) {
  if (args.norm.rows == 0) return cudaSuccess;
  steer_norm_slot_kernel<<<static_cast<unsigned>(args.norm.rows), row_threads(args.norm.hidden),
                           shared_bytes(args.slot.scratch, args.norm.hidden), stream>>>(args);
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
