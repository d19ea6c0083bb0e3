// SPDX-License-Identifier: Apache-2.0
// How the columns of a product are cut into chunks that threads claim: large ones first, and smaller ones
// the less is left (guided self-scheduling, Polychronopoulos and Kuck 1987), so that all threads end
// together. A claim costs a tenth of a microsecond, a thread that waits at the end costs bandwidth. Where a cut
// falls changes no bit of a result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace chatspace {

struct ChunkPlan {
  // Ascending; chunk i is [starts[i], starts[i + 1]).
  std::vector<int32_t> starts;

  // `most` and `least` columns of a chunk, whole tiles but for the last one.
  ChunkPlan(int64_t columns, int64_t most, int64_t least, int64_t tile, int threads) {
    starts.push_back(0);
    const int64_t share = 2 * std::max(threads, 1);
    for (int64_t at = 0; at < columns;) {
      int64_t size = columns;
      if (threads > 1) {
        size = std::max(std::min(most, (columns - at + share - 1) / share), least);
        size = std::max<int64_t>((size + tile - 1) / tile, 1) * tile;
      }
      at = std::min(columns, at + size);
      starts.push_back(static_cast<int32_t>(at));
    }
  }
  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
};

}  // namespace chatspace
