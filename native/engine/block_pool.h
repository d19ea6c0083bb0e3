// SPDX-License-Identifier: Apache-2.0
// Blocks of the KV cache that are free. The lowest numbers are given out first, so that the pages a
// process really uses stay few.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

namespace chatspace {

class BlockPool {
 public:
  explicit BlockPool(int64_t blocks) : total_(blocks) {
    for (int64_t b = 0; b < blocks; ++b) free_.push(static_cast<int32_t>(b));
  }
  int64_t total() const { return total_; }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t used() const { return total_ - free(); }

  std::vector<int32_t> take(int64_t count) {
    std::vector<int32_t> blocks;
    for (int64_t i = 0; i < count; ++i) {
      blocks.push_back(free_.top());
      free_.pop();
    }
    return blocks;
  }
  void give(std::vector<int32_t>& blocks) {
    for (int32_t block : blocks) free_.push(block);
    blocks.clear();
  }

 private:
  int64_t total_;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> free_;
};

}  // namespace chatspace
