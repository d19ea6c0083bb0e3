// SPDX-License-Identifier: Apache-2.0
#include "engine/block_store.h"

#include <algorithm>

#include "ops/backend.h"

namespace chatspace {

BlockStore::BlockStore(int64_t blocks) : blocks_(static_cast<size_t>(blocks)) {
  for (int64_t b = 0; b < blocks; ++b) free_.push(static_cast<int32_t>(b));
}

int32_t BlockStore::find(const Contents& contents, Content Block::* part, const Hash128& key, const int64_t* tokens,
                         int64_t rows) {
  const auto found = contents.find(key);
  if (found == contents.end()) return -1;
  Block& block = blocks_[static_cast<size_t>(found->second)];
  const std::vector<int64_t>& held = (block.*part).tokens;
  if (static_cast<int64_t>(held.size()) != rows || !std::equal(held.begin(), held.end(), tokens)) return -1;
  if (block.users++ == 0) kept_.erase(block.kept);
  return found->second;
}

void BlockStore::note(Contents& contents, Content& part, int32_t block, const Hash128& key, const int64_t* tokens,
                      int64_t rows) {
  if (part.known || !contents.emplace(key, block).second) return;
  part.known = true;
  part.key = key;
  part.tokens.assign(tokens, tokens + rows);
}

void BlockStore::forget(Contents& contents, Content& part) {
  if (!part.known) return;
  contents.erase(part.key);
  part.known = false;
  part.tokens.clear();
}

int32_t BlockStore::share(const Hash128& key, const int64_t* tokens) {
  return find(whole_, &Block::whole, key, tokens, kBlockTokens);
}

int32_t BlockStore::share_tail(const Hash128& key, const int64_t* tokens, int64_t rows) {
  return find(tails_, &Block::tail, key, tokens, rows);
}

void BlockStore::publish(int32_t id, const Hash128& key, const int64_t* tokens) {
  note(whole_, blocks_[static_cast<size_t>(id)].whole, id, key, tokens, kBlockTokens);
}

void BlockStore::publish_tail(int32_t id, const Hash128& key, const int64_t* tokens, int64_t rows) {
  note(tails_, blocks_[static_cast<size_t>(id)].tail, id, key, tokens, rows);
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
      forget(whole_, old.whole);
      forget(tails_, old.tail);
      ++evictions_;
    }
    blocks_[static_cast<size_t>(id)].users = 1;
    taken.push_back(id);
  }
  return taken;
}

void BlockStore::release(std::vector<int32_t>& ids) {
  // The last blocks of a sequence are the least likely to be wanted again: they go first.
  for (auto it = ids.rbegin(); it != ids.rend(); ++it) {
    Block& block = blocks_[static_cast<size_t>(*it)];
    if (--block.users > 0) continue;
    if (block.whole.known || block.tail.known) {
      block.kept = kept_.insert(kept_.end(), *it);
    } else {
      free_.push(*it);
    }
  }
  ids.clear();
}

}  // namespace chatspace
