// SPDX-License-Identifier: Apache-2.0
// What a program does to generated rows once that does not change from row to row any more, in one piece of
// memory: most programs are steady from the first generated row on, and a step of many requests then reads a few
// adjacent lines a request instead of every operation's scope, schedule and vectors.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/steer_types.h"

namespace chatspace {

struct SiteProgram;

struct SteadyRows {
  struct Operation {
    SteerOp op;  // counter = index in the caller's program
    float strength;
  };
  // Operations [begin, end) act at this site, in this order.
  struct Part {
    int64_t site;
    int32_t begin, end;
  };
  static constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

  // First generated row (0 = the first generated token fed back) from which on every row is treated alike;
  // kNever where positions, token ids, or a reading that another row or site makes have a say.
  int32_t from = kNever;
  std::vector<Part> parts;
  std::vector<Operation> operations;

  static SteadyRows of(const std::vector<SiteProgram>& sites);
};

}  // namespace chatspace
