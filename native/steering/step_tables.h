// SPDX-License-Identifier: Apache-2.0
// Fills the flat tables of every site for one step: rows of all requests, each row's operations in
// its program's order, captures, readings for gates and probes. Rows are those the scheduler scheduled;
// nothing is inferred from prompt lengths. Cost is proportional to the operations that act, not to the
// number of programs.
#pragma once

#include <functional>
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
  std::vector<Capture>* probes = nullptr;
  std::vector<SteerCounter>* counters = nullptr;  // of the request, one per operation of its program
  // Of the request, one per reading of its program: what a latch was read as, NaN before.
  std::vector<float>* latches = nullptr;
};

class StepTables {
 public:
  // Log-probabilities [rows, vocab] of rows of the residual stream [rows, hidden], on their device.
  using Lens = std::function<at::Tensor(const at::Tensor& rows)>;

  StepTables(SiteTable& sites, at::Device device, Lens lens)
      : sites_(sites), device_(device), lens_(std::move(lens)) {}

  // Slices ascend by first_row and cover `rows` rows.
  void begin(int64_t rows, std::vector<StepSlice> slices);
  // After the forward: adds the counters to their requests, takes captures and readings in, makes every
  // site idle. Throws when a site that had work was not reached, or ran before a reading that a gate of it
  // needs: silently unsteered must not happen.
  void end();
  // After a failed forward: makes every site idle and drops what was prepared.
  void cancel();

 private:
  struct CounterTarget {
    int32_t site;
    int32_t entry;
    SteerCounter* total;  // of the request
  };
  // Whole rows, kept on the device until the forward is over: to be copied out or reduced further.
  struct StagedRows {
    Capture* capture;
    at::Tensor rows;  // [n, width]
    float* out;
    int32_t* indices;
  };
  // Readings that leave the device after the forward.
  struct StagedReadings {
    size_t from;  // into the buffer of readings
    size_t count;
    float* out;
  };
  SiteStep& touch(int64_t site, int64_t rows);
  void reserve_readings();
  void add_operations(const StepSlice& slice, int64_t rows);
  // A row that the program treats as all that follow.
  void add_steady(const StepSlice& slice, const SteadyRows& steady, int64_t rows);
  void add_entries(const StepSlice& slice, const SiteProgram& part, int64_t rows);
  void add_latches(const StepSlice& slice, int64_t rows);
  void add_captures(const StepSlice& slice, std::vector<Capture>& captures, int64_t rows);
  void add_op(SiteStep& step, int64_t site, const SteerOp& op, std::vector<SteerCounter>* counters);
  // The operations of `part` in the tables of `step`, with counters that go to `counters` or nowhere.
  int32_t add_ops(SiteStep& step, const SiteProgram& part, std::vector<SteerCounter>* counters);
  // Where the program's reading `index` of the slice's row r will stand; made once a row.
  const float* gate_reading(const StepSlice& slice, size_t index, int64_t r, SiteStep& reader, int64_t rows);
  void check_reached();
  void reduce(const StagedRows& staged);
  void idle();

  SiteTable& sites_;
  at::Device device_;
  Lens lens_;
  std::vector<int64_t> active_;
  std::vector<StepSlice> slices_;
  std::vector<CounterTarget> targets_;
  std::vector<StagedRows> staged_rows_;
  std::vector<StagedReadings> staged_readings_;
  std::vector<int32_t> selected_;
  at::Tensor buffer_;  // of readings, on the device
  float* buffer_data_ = nullptr;
  size_t buffer_used_ = 0;
  std::vector<size_t> made_;  // of the slice at hand, [readings, count]: offset + 1 into the buffer, 0 = not yet
};

}  // namespace chatspace
