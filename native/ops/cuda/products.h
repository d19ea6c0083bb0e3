// SPDX-License-Identifier: Apache-2.0
// Matrix products of the CUDA backend: float weights by cuBLAS, block weights by our kernels or by
// unpacking and cuBLAS. x and out are of one float dtype, in which a product is rounded once.
#pragma once

#include "ops/backend.h"

namespace chatspace::cuda {

// Whether a matrix is of GGUF blocks (see backend.h).
bool is_blocks(const at::Tensor& weight);


// out [T, N] = x [T, K] weight^T + bias. x is dense; out's columns may be a slice of a wider matrix.
void project(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias);

// As project(), of a weight in blocks.
void project_blocks(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias);

// tokens [T] int64 and a table in blocks -> [T, H] float32.
at::Tensor embed_blocks(const at::Tensor& tokens, const at::Tensor& table);

// Float matrices of one width that lie one after the other in one piece of memory (decoder/join_matrices.h
// lays them so), as one matrix over the same memory; undefined when they do not.
at::Tensor joined_matrix(at::TensorList parts);

// out = x transposed + bias by cuBLAS, transposed [K, N]. In reproducible mode in tiles of one shape, so that
// what cuBLAS chooses for a row never depends on the rows beside it.
void multiply(at::Tensor& out, const at::Tensor& x, const at::Tensor& transposed, const OptionalTensor& bias);

}  // namespace chatspace::cuda
