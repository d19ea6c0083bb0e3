// SPDX-License-Identifier: Apache-2.0
// What every operator of the CPU asks of a tensor before a kernel may see its memory.
#pragma once

#include "kernels/element.h"
#include "ops/backend.h"

namespace chatspace {

// The kernels' element type; false when they have none for this dtype.
bool element_type(const at::Tensor& tensor, ElementType* type);
// The same; throws, naming `what`.
ElementType element_type_of(const at::Tensor& tensor, const char* what);
void check_cpu(const at::Tensor& tensor, const char* what);
// [T, n] float32, contiguous.
at::Tensor rows_of(const at::Tensor& x, const char* what);
// [rows] int32, contiguous.
at::Tensor int32_rows(const at::Tensor& t, int64_t rows, const char* what);
// One-dimensional parameter of `n` elements as contiguous float32; null stays undefined.
at::Tensor float_vector(const OptionalTensor& vector, int64_t n, const char* what);
// A norm's weight (and bias) in one element type the kernels know.
at::Tensor norm_parameter(const at::Tensor& parameter, int64_t n, const char* what);
// The type of a matrix whose rows are float elements or blocks (see backend.h), and its width.
ElementType matrix_type(const at::Tensor& weight, const char* what, int64_t* width);
// [rows, width] float32, not initialised.
at::Tensor empty_rows(int64_t rows, int64_t width);
inline const float* pointer(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

}  // namespace chatspace
