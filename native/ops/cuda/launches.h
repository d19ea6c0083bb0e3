// SPDX-License-Identifier: Apache-2.0
// Tensors in, kernel arguments out: the only place where torch's dtypes and streams meet the kernels'
// plain structs.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/launch.h"
#include "ops/backend.h"

namespace chatspace::cuda {

inline Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Dtype::kFloat32;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    case at::kHalf:
      return Dtype::kFloat16;
    default:
      TORCH_CHECK(false, "chatspace cuda: expected a float32, bfloat16 or float16 tensor, got ", tensor.scalar_type());
  }
}

// The tensor must be dense; the caller keeps it alive until the launch is queued.
inline ConstArray reads(const at::Tensor& tensor) { return {tensor.const_data_ptr(), dtype_of(tensor)}; }
inline ConstArray reads(const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->defined() ? reads(*tensor) : ConstArray{};
}
inline Array writes(const at::Tensor& tensor) { return {tensor.mutable_data_ptr(), dtype_of(tensor)}; }

inline OptionalTensor dense(const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->defined() ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

inline cudaStream_t stream_of(const at::Tensor& tensor) {
  return c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream();
}

// Rows of a [..., width] tensor.
inline int64_t rows_of(const at::Tensor& tensor, int64_t width) { return width == 0 ? 0 : tensor.numel() / width; }

}  // namespace chatspace::cuda
