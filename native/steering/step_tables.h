// SPDX-License-Identifier: Apache-2.0
// Fills the flat tables of every site for one step: rows of all requests, each row's operations in
// its program's order, captures. Rows are those the scheduler scheduled; nothing is inferred from
// prompt lengths. Cost is proportional to the operations that act, not to the number of programs.
#pragma once

#include <memory>
#include <vector>

#include "steering/capture.h"
#include "steering/program.h"
#include "steering/site.h"

namespace chatspace {

// One request's part of a step: rows [first_row, first_row + count) hold its positions
// [first_position, first_position + count). Rows before `fresh` were computed before (models without a
// cache run their prefix again): they are steered again, but neither counted nor captured again.
struct StepSlice {
  int64_t first_row = 0;
  int64_t count = 0;
  int32_t first_position = 0;
  int64_t fresh = 0;
  int32_t prompt = 0;
  const int64_t* tokens = nullptr;  // [count]
  const Program* program = nullptr;
  std::vector<Capture>* captures = nullptr;
  std::vector<SteerCounter>* counters = nullptr;  // of the request, one per operation of its program
};

class StepTables {
 public:
  StepTables(SiteTable& sites, at::Device device) : sites_(sites), device_(device) {}

  // Slices ascend by first_row and cover `rows` rows.
  void begin(int64_t rows, std::vector<StepSlice> slices);
  // After the forward: adds the counters to their requests, takes the captures in, makes every site
  // idle. Throws when a site that had work was not reached: silently unsteered must not happen.
  void end();
  // After a failed forward: makes every site idle and drops what was prepared.
  void cancel();

 private:
  struct CounterTarget {
    int64_t site;
    size_t entry;
    std::vector<SteerCounter>* counters;
    int32_t index;
  };
  struct DeviceCapture {
    int64_t site;
    at::Tensor staging;
    float* out;
  };
  SiteStep& touch(int64_t site, int64_t rows);
  void add_operations(const StepSlice& slice, int64_t rows);
  void add_captures(const StepSlice& slice, int64_t rows);

  SiteTable& sites_;
  at::Device device_;
  std::vector<int64_t> active_;
  std::vector<StepSlice> slices_;
  std::vector<CounterTarget> targets_;
  std::vector<DeviceCapture> device_captures_;
  std::vector<int32_t> selected_;
};

}  // namespace chatspace
