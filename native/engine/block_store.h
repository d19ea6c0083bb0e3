// SPDX-License-Identifier: Apache-2.0
// The blocks of the KV cache: free, in use by sequences, or kept because their content may be wanted
// again. A full block's content is told by a key that chains the tokens up to its end with what the
// program did to them (Program::signature), so a block is shared exactly where the keys and values are
// the same. Shared blocks are full and never written again; kept ones are given up oldest first.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <queue>
#include <unordered_map>
#include <vector>

#include "steering/hash128.h"

namespace chatspace {

class BlockStore {
 public:
  explicit BlockStore(int64_t blocks);

  int64_t total() const { return static_cast<int64_t>(blocks_.size()); }
  // Blocks that can be taken: free ones and kept ones that nobody uses.
  int64_t available() const { return static_cast<int64_t>(free_.size() + kept_.size()); }
  // In use by sequences.
  int64_t used() const { return total() - available(); }

  // The block with this content, now used once more, or -1. `tokens` are compared too.
  int32_t share(const Hash128& key, const int64_t* tokens);
  // Blocks nobody else uses; available() must suffice.
  std::vector<int32_t> take(int64_t count);
  // Says what a full block holds from now on. A content that is there already is not kept twice.
  void publish(int32_t block, const Hash128& key, const int64_t* tokens);
  void release(std::vector<int32_t>& blocks);

 private:
  struct Block {
    int32_t users = 0;
    bool published = false;
    Hash128 key;
    std::vector<int64_t> tokens;
    std::list<int32_t>::iterator kept;
  };

  std::vector<Block> blocks_;
  // Lowest numbers first, so that the pages a process really touches stay few.
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> free_;
  std::list<int32_t> kept_;  // oldest first
  std::unordered_map<Hash128, int32_t, Hash128Hasher> contents_;
};

}  // namespace chatspace
