// SPDX-License-Identifier: Apache-2.0
// Brings the weights of a loaded archive into the dtype and onto the device of a run.
#pragma once

#include <ATen/ATen.h>
#include <torch/script.h>

#include <string>

namespace chatspace {

// Name of the archive's extra file that says what each weight is.
inline constexpr const char* kWeightsTable = "weights.txt";

// The dtype "auto" stands for: that of most elements of the matrices; block types count as float32.
at::ScalarType stored_dtype(const std::string& table);

// Replaces every weight of `root` by its values: block types are dequantised, matrices become `dtype`,
// vectors (norms, biases) float32 on the CPU and `dtype` on CUDA, addends are added. A weight that two
// modules share stays one tensor. Each source tensor is freed as soon as its values exist.
// Throws Error: ERR_ARCHIVE_WEIGHTS when the table and the modules do not fit together.
void materialize_weights(torch::jit::Module& root, const std::string& table, at::ScalarType dtype, at::Device device);

}  // namespace chatspace
