// SPDX-License-Identifier: Apache-2.0
// The compiled programs of a model's requests, equal ones once. What belongs to a request (counters, what a
// latch was read as) stays with the request. Belongs to the executor thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "steering/live_table.h"
#include "steering/program.h"
#include "steering/vector_table.h"

namespace chatspace {

class ProgramTable {
 public:
  explicit ProgramTable(at::Device device) : vectors_(device) {}

  // The program of `specs`: a living one that is equal in everything, or a new one. Throws as
  // Program::compile does.
  std::shared_ptr<const Program> share(const std::vector<OperationSpec>& specs, const SiteTable& sites);

  // To be called when requests have gone, so that size() tells the programs in use.
  void sweep() { programs_.sweep(); }
  int64_t size() const { return static_cast<int64_t>(programs_.size()); }

 private:
  VectorTable vectors_;
  LiveTable<Program> programs_;
};

}  // namespace chatspace
