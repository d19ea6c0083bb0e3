// SPDX-License-Identifier: Apache-2.0
// Launch of attention for rows of prompt chunks.
#include "kernels/cuda/attention_chunk.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"

namespace chatspace::cuda {
namespace {

constexpr int kWarps = 4;

template <int Q, int L, class Cache>
__global__ void __launch_bounds__(kWarps * 32) chunk_kernel(AttentionArgs args) {
  extern __shared__ float shared[];
  CudaBlock block(nullptr);
  attend_chunk<Q, L, Cache>(block, args, blockIdx.x, blockIdx.y, shared);
}

template <int Q, int L, class Cache>
cudaError_t launch(const AttentionArgs& args, cudaStream_t stream) {
  const ChunkShape shape = chunk_shape(args.heads / args.kv_heads, kWarps * Q);
  const int64_t tiles = (args.rows + shape.rows - 1) / shape.rows;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(args.kv_heads * shape.chunks));
  const size_t bytes = static_cast<size_t>(chunk_shared_floats(Q, kWarps, args.head_dim)) * sizeof(float);
  // Above 48 KiB a kernel must ask; asked each time because the answer belongs to the current device.
  const cudaError_t granted = cudaFuncSetAttribute(chunk_kernel<Q, L, Cache>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (granted != cudaSuccess) return granted;
  chunk_kernel<Q, L, Cache><<<grid, kWarps * 32, bytes, stream>>>(args);
  return cudaGetLastError();
}

// Q * L registers of sums a lane: 16 to 32.
template <class Cache>
cudaError_t by_width(const AttentionArgs& args, cudaStream_t stream) {
  if (args.head_dim <= 64) return launch<8, 2, Cache>(args, stream);
  if (args.head_dim <= 128) return launch<8, 4, Cache>(args, stream);
  return launch<4, 8, Cache>(args, stream);
}

}  // namespace

cudaError_t attend_chunks(const AttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  switch (args.keys.dtype) {
    case Dtype::kBFloat16:
      return by_width<BFloat16>(args, stream);
    case Dtype::kFloat16:
      return by_width<Float16>(args, stream);
    default:
      return by_width<float>(args, stream);
  }
}

}  // namespace chatspace::cuda
