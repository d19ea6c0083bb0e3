// SPDX-License-Identifier: Apache-2.0
// Threads of a block that works on one row.
#pragma once

#include <cstdint>

namespace chatspace::cuda {

// Four elements a thread while that fills whole warps; a multiple of 32. One number for all kernels that sum
// over a row: the order of a sum follows from it, and steering with its norm in one kernel must give the bits
// of the two kernels. 512 leaves a thread 128 registers, which every device grants.
constexpr unsigned row_threads(int64_t hidden) {
  constexpr int64_t kMost = 512;
  const int64_t wanted = (hidden / 4 + 31) / 32 * 32;
  return static_cast<unsigned>(wanted < 32 ? 32 : wanted > kMost ? kMost : wanted);
}

}  // namespace chatspace::cuda
