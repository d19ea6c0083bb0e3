// SPDX-License-Identifier: Apache-2.0
#include "engine/block_store.h"

#include <algorithm>

#include "ops/backend.h"

namespace chatspace {

BlockStore::BlockStore(int64_t blocks) : blocks_(static_cast<size_t>(blocks)) {
  for (int64_t b = 0; b < blocks; ++b) free_.push(static_cast<int32_t>(b));
}

int32_t BlockStore::share(const Hash128& key, const int64_t* tokens) {
  const auto found = contents_.find(key);
  if (found == contents_.end()) return -1;
  Block& block = blocks_[static_cast<size_t>(found->second)];
  if (!std::equal(block.tokens.begin(), block.tokens.end(), tokens)) return -1;
  if (block.users++ == 0) kept_.erase(block.kept);
  return found->second;
}

std::vector<int32_t> BlockStore::take(int64_t count) {
  std::vector<int32_t> taken;
  for (int64_t i = 0; i < count; ++i) {
    int32_t id;
    if (!free_.empty()) {
      id = free_.top();
      free_.pop();
    } else {
      id = kept_.front();
      kept_.pop_front();
      Block& old = blocks_[static_cast<size_t>(id)];
      contents_.erase(old.key);
      old.published = false;
    }
    blocks_[static_cast<size_t>(id)].users = 1;
    taken.push_back(id);
  }
  return taken;
}

void BlockStore::publish(int32_t id, const Hash128& key, const int64_t* tokens) {
  Block& block = blocks_[static_cast<size_t>(id)];
  if (block.published || !contents_.emplace(key, id).second) return;
  block.published = true;
  block.key = key;
  block.tokens.assign(tokens, tokens + kBlockTokens);
}

void BlockStore::release(std::vector<int32_t>& ids) {
  // The last blocks of a sequence are the least likely to be wanted again: they go first.
  for (auto it = ids.rbegin(); it != ids.rend(); ++it) {
    Block& block = blocks_[static_cast<size_t>(*it)];
    if (--block.users > 0) continue;
    if (block.published) {
      block.kept = kept_.insert(kept_.end(), *it);
    } else {
      free_.push(*it);
    }
  }
  ids.clear();
}

}  // namespace chatspace
