// SPDX-License-Identifier: Apache-2.0
// The vectors of all programs of a model on its device, equal ones once: many requests with one direction
// read it from one place, whatever else their programs do. Belongs to the executor thread.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "steering/hash128.h"
#include "steering/live_table.h"

namespace chatspace {

struct SharedVector {
  at::Tensor host;    // float32, contiguous: what equality is decided by
  at::Tensor device;  // on the CPU the same tensor
  Hash128 hash;       // of the values

  const float* data() const { return device.const_data_ptr<float>(); }
};

using VectorRef = std::shared_ptr<const SharedVector>;

class VectorTable {
 public:
  explicit VectorTable(at::Device device) : device_(device) {}

  // `values` divided by `divisor`. Two of these are one object exactly if they are equal bit for bit.
  VectorRef share(const std::vector<float>& values, double divisor = 1.0);

 private:
  at::Device device_;
  LiveTable<SharedVector> vectors_;
};

}  // namespace chatspace
