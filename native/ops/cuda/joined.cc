// SPDX-License-Identifier: Apache-2.0
// Matrices that were laid side by side at load, seen as one.
#include "ops/cuda/products.h"

namespace chatspace::cuda {

at::Tensor joined_matrix(at::TensorList parts) {
  int64_t rows = 0;
  for (const at::Tensor& part : parts) {
    const at::Tensor& first = parts[0];
    const bool follows = part.dim() == 2 && part.is_contiguous() && part.scalar_type() == first.scalar_type() &&
                         part.size(1) == first.size(1) && part.storage().is_alias_of(first.storage()) &&
                         part.storage_offset() == first.storage_offset() + rows * first.size(1);
    if (!follows || is_blocks(part)) return {};
    rows += part.size(0);
  }
  return parts[0].as_strided({rows, parts[0].size(1)}, {parts[0].size(1), 1}, parts[0].storage_offset());
}

}  // namespace chatspace::cuda
