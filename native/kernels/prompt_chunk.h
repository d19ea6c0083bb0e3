// SPDX-License-Identifier: Apache-2.0
// What the host knows of a sequence that has several rows in a step.
#pragma once

#include <cstdint>

namespace chatspace {

struct PromptChunk {
  int64_t sequence;   // row of the step's block tables
  int64_t first_row;  // of the step; the others follow
  int64_t rows;
  int64_t context;  // positions 0 .. context - 1 are in the cache after the step; the last row is the last of them
};

}  // namespace chatspace
