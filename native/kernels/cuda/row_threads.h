// SPDX-License-Identifier: Apache-2.0
// Threads of a block that works on one row.
#pragma once

#include <cstdint>

namespace chatspace::cuda {

constexpr int kMostRowThreads = 512;

// Four elements a thread while that fills whole warps; a multiple of 32. One number for all kernels that sum
// over a row: the order of a sum follows from it, and steering with its norm in one kernel must give the bits
// of the two kernels. A kernel launched so says __launch_bounds__(kMostRowThreads): a thread then has registers enough
// on every device.
constexpr unsigned row_threads(int64_t hidden) {
  const int64_t wanted = (hidden / 4 + 31) / 32 * 32;
  return static_cast<unsigned>(wanted < 32 ? 32 : wanted > kMostRowThreads ? kMostRowThreads : wanted);
}

}  // namespace chatspace::cuda
