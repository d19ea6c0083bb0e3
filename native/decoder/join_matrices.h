// SPDX-License-Identifier: Apache-2.0
// Matrices that are multiplied with the same rows, laid one after the other, so that a device makes one
// product of them.
#pragma once

#include <torch/script.h>

namespace chatspace {

// In each module: q, k and v, and gate and up, where they are float matrices of one dtype and width. Each
// stays a tensor of its own, a view of the joined one. Needs room for one joined matrix at a time. `root`
// alone must hold the weights.
void join_matrices(torch::jit::Module& root);

}  // namespace chatspace
