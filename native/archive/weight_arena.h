// SPDX-License-Identifier: Apache-2.0
// Where the matrices of a model lie on the CPU: side by side in memory that may be had in huge pages. A decode
// step reads all of them; in pages of 4 KiB a model of half a gigabyte costs a hundred thousand address
// translations a step.
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace chatspace {

class WeightArena {
 public:
  // Not initialised, contiguous, in the arena unless it is small.
  at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype);
  // The same values in the arena, contiguous, aligned to 64 bytes, and alive as long as the result; or
  // `weight` itself where it is there already, small, on a device, or there is no memory of that kind.
  at::Tensor place(const at::Tensor& weight);

 private:
  class Chunk;
  bool holds(const void* data) const;

  std::vector<std::shared_ptr<Chunk>> chunks_;  // the last one has room
  size_t used_ = 0;
};

}  // namespace chatspace
