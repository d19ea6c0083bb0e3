// SPDX-License-Identifier: Apache-2.0
// Counters of the steering kernel between a step's steer() calls and its read_counters(). A slot on
// the device belongs to one host counter. Owned by one thread and one device; slots are zero when they
// are handed out, and all are read in one copy.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "kernels/steer_types.h"

namespace chatspace::cuda {

class SteerCounters {
 public:
  explicit SteerCounters(c10::Device device) : device_(device) {}

  // Device counters for `hosts`, in that order.
  SteerCounter* take(const std::vector<SteerCounter*>& hosts);
  // Waits for the device, adds every slot to its host counter, forgets them.
  void read();

 private:
  struct Chunk {
    at::Tensor slots;  // bytes of [capacity] SteerCounter
    int64_t capacity = 0;
    std::vector<SteerCounter*> hosts;
  };
  c10::Device device_;
  std::vector<Chunk> chunks_;
};

// Of the calling thread and `device`; ends with the thread.
SteerCounters& thread_counters(c10::Device device);
void read_thread_counters();

}  // namespace chatspace::cuda
