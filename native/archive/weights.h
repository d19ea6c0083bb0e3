// SPDX-License-Identifier: Apache-2.0
// Brings the weights of a loaded archive into the dtype and onto the device of a run.
#pragma once

#include <ATen/ATen.h>
#include <torch/script.h>

#include <string>

namespace chatspace {

// Name of the archive's extra file that says what each weight is.
inline constexpr const char* kWeightsTable = "weights.txt";

// What becomes of the matrices. Vectors (norms, biases) are never quantised.
enum class Quantize {
  kNone,    // dequantised to the dtype of the run
  kStored,  // Q8_0, Q4_0 and Q4_1 stay as they are in the archive, the rest is dequantised
  kInt8,    // Q8_0: 8 bits and a float16 scale for 32 weights
  kInt4,    // Q4_1 for the layers, Q8_0 for the embedding table and the head
};

// How a product reads its activations where the matrix is in blocks.
enum class Activations {
  kFloat32,  // blocks as in GGUF: the product with their float32 copy, bit for bit
  kInt16,    // the same numbers in planes (kernels/element.h): integer products, CPU only
};

// The dtype "auto" stands for: what the converter wrote down (it does when it quantises), else that of most
// elements of the matrices; block types count as float32.
at::ScalarType stored_dtype(const std::string& table);

// Replaces every weight of `root` by its values: block types are dequantised, matrices become `dtype`,
// vectors (norms, biases) float32 on the CPU and `dtype` on CUDA, addends are added; `quantize` may keep
// or make block types instead (rows of whole blocks; other matrices become `dtype`). A weight
// that two modules share stays one tensor. Each source tensor is freed as soon as its values exist.
// Returns how many matrices are in blocks.
// Throws Error: ERR_ARCHIVE_WEIGHTS when the table and the modules do not fit together.
int64_t materialize_weights(torch::jit::Module& root, const std::string& table, at::ScalarType dtype, at::Device device,
                            Quantize quantize = Quantize::kNone, Activations activations = Activations::kFloat32);

}  // namespace chatspace
