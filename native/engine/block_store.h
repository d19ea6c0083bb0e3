// SPDX-License-Identifier: Apache-2.0
// The blocks of the KV cache: free, in use by sequences, or kept because their content may be wanted
// again. A full block's content is told by a key that chains the tokens up to its end with what the
// program did to them (Program::signature), so a block is shared exactly where the keys and values are
// the same. Shared blocks are full and never written again; kept ones are given up oldest first.
//
// The rows of a prompt that do not fill a block (its tail) are found by a key of their own. They are
// shared by copy: the block they stand in goes on being written by its owner, behind them.
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
  // Kept for their content, used by nobody.
  int64_t kept() const { return static_cast<int64_t>(kept_.size()); }
  int64_t users(int32_t block) const { return blocks_[static_cast<size_t>(block)].users; }
  // Contents given up for room so far.
  int64_t evictions() const { return evictions_; }

  // The block with this content, now used once more, or -1. `tokens` are compared too.
  int32_t share(const Hash128& key, const int64_t* tokens);
  // Blocks nobody else uses; available() must suffice.
  std::vector<int32_t> take(int64_t count);
  // Says what a full block holds from now on. A content that is there already is not kept twice.
  void publish(int32_t block, const Hash128& key, const int64_t* tokens);
  // As share() and publish() for the first `rows` rows of a block. The finder copies them and then
  // releases the block.
  int32_t share_tail(const Hash128& key, const int64_t* tokens, int64_t rows);
  void publish_tail(int32_t block, const Hash128& key, const int64_t* tokens, int64_t rows);
  void release(std::vector<int32_t>& blocks);

 private:
  struct Content {
    bool known = false;
    Hash128 key;
    std::vector<int64_t> tokens;
  };
  struct Block {
    int32_t users = 0;
    Content whole;
    Content tail;
    std::list<int32_t>::iterator kept;
  };
  using Contents = std::unordered_map<Hash128, int32_t, Hash128Hasher>;
  int32_t find(const Contents& contents, Content Block::* part, const Hash128& key, const int64_t* tokens,
               int64_t rows);
  void note(Contents& contents, Content& part, int32_t block, const Hash128& key, const int64_t* tokens, int64_t rows);
  void forget(Contents& contents, Content& part);

  std::vector<Block> blocks_;
  // Lowest numbers first, so that the pages a process really touches stay few.
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> free_;
  std::list<int32_t> kept_;  // oldest first
  Contents whole_;
  Contents tails_;
  int64_t evictions_ = 0;
};

}  // namespace chatspace
