// SPDX-License-Identifier: Apache-2.0
// Launches of attention for rows that are alone in their sequence (decode).
#include "kernels/cuda/attention_single.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"

namespace chatspace::cuda {
namespace {

constexpr int kWarps = 4;

template <int Q, int L, class Cache>
__global__ void __launch_bounds__(kWarps * 32) single_kernel(AttentionArgs args) {
  extern __shared__ float shared[];
  CudaBlock block(nullptr);
  attend_single<Q, L, Cache>(block, args, blockIdx.x, blockIdx.y, blockIdx.z, shared);
}

__global__ void merge_kernel(AttentionArgs args) {
  CudaBlock block(nullptr);
  merge_splits(block, args, blockIdx.x, blockIdx.y);
}

template <int Q, int L, class Cache>
cudaError_t launch(const AttentionArgs& args, cudaStream_t stream) {
  const int64_t chunks = (args.heads / args.kv_heads + Q - 1) / Q;
  const dim3 grid(static_cast<unsigned>(args.sequences), static_cast<unsigned>(args.kv_heads * chunks),
                  static_cast<unsigned>(args.splits));
  const size_t bytes = static_cast<size_t>(single_shared_floats(Q, kWarps, args.head_dim)) * sizeof(float);
  static_assert((4 * kMaxHeadDim + kWarps * 4 * (kBlock + kMaxHeadDim + 2)) * sizeof(float) <= 48 * 1024);
  single_kernel<Q, L, Cache><<<grid, kWarps * 32, bytes, stream>>>(args);
  return cudaGetLastError();
}

template <int Q, class Cache>
cudaError_t by_width(const AttentionArgs& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return launch<Q, 2, Cache>(args, stream);
  if (args.head_dim <= 128) return launch<Q, 4, Cache>(args, stream);
  return launch<Q, 8, Cache>(args, stream);
}

template <class Cache>
cudaError_t by_group(const AttentionArgs& args, cudaStream_t stream) {
  return args.heads == args.kv_heads ? by_width<1, Cache>(args, stream) : by_width<4, Cache>(args, stream);
}

}  // namespace

cudaError_t attend_single_rows(const AttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.sequences == 0) return cudaSuccess;
  cudaError_t result = cudaSuccess;
  switch (args.keys.dtype) {
    case Dtype::kBFloat16:
      result = by_group<BFloat16>(args, stream);
      break;
    case Dtype::kFloat16:
      result = by_group<Float16>(args, stream);
      break;
    default:
      result = by_group<float>(args, stream);
  }
  if (result != cudaSuccess || args.partial == nullptr) return result;
  const unsigned threads = static_cast<unsigned>((args.head_dim + 31) / 32 * 32);
  merge_kernel<<<dim3(static_cast<unsigned>(args.sequences), static_cast<unsigned>(args.heads)), threads, 0, stream>>>(
      args);
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
