// SPDX-License-Identifier: Apache-2.0
// Launches of the kernels over block matrices: products of few rows, unpacking for products of many,
// embedding.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/quant_row.cuh"

namespace chatspace::cuda {
namespace {

constexpr int kWarps = 4;

template <BlockType T, int R, class X>
__global__ void __launch_bounds__(kWarps * 32) linear_kernel(QuantLinearArgs args) {
  CudaBlock block(nullptr);
  quant_linear<T, R, X>(block, args, blockIdx.x, blockIdx.y);
}

template <BlockType T>
__global__ void unpack_kernel(UnpackArgs args) {
  const int64_t octets = args.rows * args.weight.row_blocks * 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < octets; i += stride) {
    unpack_octet<T>(args, i);
  }
}

template <BlockType T>
__global__ void embed_kernel(QuantEmbedArgs args) {
  CudaBlock block(nullptr);
  embed_row<T>(block, args, blockIdx.x);
}

template <BlockType T, int R, class X>
cudaError_t launch(const QuantLinearArgs& args, cudaStream_t stream) {
  constexpr int64_t kColumns = int64_t{kWarps} * kQuantColumns<R>;
  const dim3 grid(static_cast<unsigned>((args.weight.rows + kColumns - 1) / kColumns),
                  static_cast<unsigned>((args.rows + R - 1) / R));
  linear_kernel<T, R, X><<<grid, kWarps * 32, 0, stream>>>(args);
  return cudaGetLastError();
}

template <BlockType T, class X>
cudaError_t by_rows(const QuantLinearArgs& args, cudaStream_t stream) {
  if (args.rows == 1) return launch<T, 1, X>(args, stream);
  return args.rows <= 4 ? launch<T, 4, X>(args, stream) : launch<T, 8, X>(args, stream);
}

template <BlockType T>
cudaError_t by_dtype(const QuantLinearArgs& args, cudaStream_t stream) {
  switch (args.x.dtype) {
    case Dtype::kBFloat16:
      return by_rows<T, BFloat16>(args, stream);
    case Dtype::kFloat16:
      return by_rows<T, Float16>(args, stream);
    default:
      return by_rows<T, float>(args, stream);
  }
}

}  // namespace

cudaError_t quant_linear(const QuantLinearArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.weight.rows == 0) return cudaSuccess;
  switch (args.weight.type) {
    case BlockType::kQ4_0:
      return by_dtype<BlockType::kQ4_0>(args, stream);
    case BlockType::kQ4_1:
      return by_dtype<BlockType::kQ4_1>(args, stream);
    default:
      return by_dtype<BlockType::kQ8_0>(args, stream);
  }
}

cudaError_t unpack(const UnpackArgs& args, cudaStream_t stream) {
  const int64_t octets = args.rows * args.weight.row_blocks * 4;
  if (octets == 0) return cudaSuccess;
  constexpr int64_t kThreads = 256;
  const int64_t wanted = (octets + kThreads - 1) / kThreads;
  const unsigned blocks = static_cast<unsigned>(wanted < 65536 ? wanted : 65536);
  switch (args.weight.type) {
    case BlockType::kQ4_0:
      unpack_kernel<BlockType::kQ4_0><<<blocks, kThreads, 0, stream>>>(args);
      break;
    case BlockType::kQ4_1:
      unpack_kernel<BlockType::kQ4_1><<<blocks, kThreads, 0, stream>>>(args);
      break;
    default:
      unpack_kernel<BlockType::kQ8_0><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t quant_embed(const QuantEmbedArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>(args.rows);
  constexpr unsigned kThreads = 128;
  switch (args.table.type) {
    case BlockType::kQ4_0:
      embed_kernel<BlockType::kQ4_0><<<blocks, kThreads, 0, stream>>>(args);
      break;
    case BlockType::kQ4_1:
      embed_kernel<BlockType::kQ4_1><<<blocks, kThreads, 0, stream>>>(args);
      break;
    default:
      embed_kernel<BlockType::kQ8_0><<<blocks, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
