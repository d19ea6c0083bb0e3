// SPDX-License-Identifier: Apache-2.0
// Launches of the kernels that work on rows by themselves: embedding, norms, activations.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/row_threads.h"

namespace chatspace::cuda {
namespace {

__global__ void __launch_bounds__(kMostRowThreads) embed_kernel(EmbedArgs args) {
  const int64_t row = blockIdx.x;
  const int64_t id = args.ids[row];
  const bool known = id >= 0 && id < args.entries;
  for (int64_t i = threadIdx.x; i < args.hidden; i += blockDim.x) {
    args.out[row * args.hidden + i] = known ? load(args.table, id * args.hidden + i) : NAN;
  }
}

__global__ void __launch_bounds__(kMostRowThreads) rms_norm_kernel(NormArgs args) {
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  rms_norm_row(block, args, blockIdx.x);
}

__global__ void __launch_bounds__(kMostRowThreads) layer_norm_kernel(NormArgs args) {
  __shared__ float reduce[32];
  CudaBlock block(reduce);
  layer_norm_row(block, args, blockIdx.x);
}

__global__ void activate_kernel(ActivationArgs args) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t elements = args.rows * args.width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += stride) {
    activate_element(args, i);
  }
}

}  // namespace

cudaError_t embed(const EmbedArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  embed_kernel<<<static_cast<unsigned>(args.rows), row_threads(args.hidden), 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t rms_norm(const NormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  rms_norm_kernel<<<static_cast<unsigned>(args.rows), row_threads(args.hidden), 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t layer_norm(const NormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  layer_norm_kernel<<<static_cast<unsigned>(args.rows), row_threads(args.hidden), 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t activate(const ActivationArgs& args, cudaStream_t stream) {
  const int64_t elements = args.rows * args.width;
  if (elements == 0) return cudaSuccess;
  constexpr int64_t kThreads = 256;
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  activate_kernel<<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace chatspace::cuda
