// SPDX-License-Identifier: Apache-2.0
// Launches around the library's flash attention: chunks brought together, results spread.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/flash_gather.cuh"
#include "kernels/cuda/flash_launch.h"

namespace chatspace::cuda {
namespace {

constexpr unsigned kThreads = 256;

__global__ void __launch_bounds__(kThreads) gather_kernel(FlashArgs args) {
  extern __shared__ uint16_t tile[];
  CudaBlock block(nullptr);
  gather_keys_and_values(block, args, blockIdx.x, blockIdx.y, blockIdx.z, tile);
}

template <class Half>
__global__ void __launch_bounds__(kThreads) pack_kernel(FlashArgs args) {
  CudaBlock block(nullptr);
  pack_query_row<Half>(block, args, blockIdx.x);
}

__global__ void __launch_bounds__(kThreads) unpack_kernel(FlashArgs args) {
  CudaBlock block(nullptr);
  unpack_result_row(block, args, blockIdx.x);
}

}  // namespace

cudaError_t flash_gather(const FlashArgs& args, cudaStream_t stream) {
  if (args.total_q == 0) return cudaSuccess;
  // Grids are narrow in z: one launch takes this many sequences.
  constexpr int64_t kMostSequences = 65535;
  if (args.sequences > kMostSequences) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(args.max_blocks), static_cast<unsigned>(args.kv_heads),
                  static_cast<unsigned>(args.sequences));
  // At most 32 rows of 258: 16.1 KiB.
  const auto bytes = static_cast<size_t>(kBlock * ((args.head_dim / 2 | 1) * 2)) * sizeof(uint16_t);
  gather_kernel<<<grid, kThreads, bytes, stream>>>(args);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const auto rows = static_cast<unsigned>(args.total_q);
  if (args.dtype == Dtype::kBFloat16) {
    pack_kernel<BFloat16><<<rows, kThreads, 0, stream>>>(args);
  } else {
    pack_kernel<Float16><<<rows, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t flash_spread(const FlashArgs& args, cudaStream_t stream) {
  if (args.total_q == 0) return cudaSuccess;
  unpack_kernel<<<static_cast<unsigned>(args.total_q), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
