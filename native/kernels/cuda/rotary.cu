// SPDX-License-Identifier: Apache-2.0
// Launch of the kernel before attention: q and k normed and rotated, k and v into the cache.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rotary_row.cuh"

namespace chatspace::cuda {
namespace {

constexpr int kWarps = 8;

template <class Cache>
__global__ void rotary_kernel(AttentionArgs args) {
  __shared__ float buffers[kWarps * kMaxHeadDim];
  CudaBlock block(nullptr);
  rotary_row<Cache>(block, args, blockIdx.x, buffers + block.warp() * kMaxHeadDim);
}

}  // namespace

cudaError_t rotary_and_cache(const AttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const unsigned rows = static_cast<unsigned>(args.rows);
  constexpr unsigned kThreads = kWarps * 32;
  switch (args.keys.dtype) {
    case Dtype::kBFloat16:
      rotary_kernel<BFloat16><<<rows, kThreads, 0, stream>>>(args);
      break;
    case Dtype::kFloat16:
      rotary_kernel<Float16><<<rows, kThreads, 0, stream>>>(args);
      break;
    default:
      rotary_kernel<float><<<rows, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
