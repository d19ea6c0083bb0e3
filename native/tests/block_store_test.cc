// SPDX-License-Identifier: Apache-2.0
// The blocks of the cache against a plain model of them: what may be found, what is given up, and that no
// block is ever two things at once.
#include "engine/block_store.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

using Tokens = std::vector<int64_t>;

Hash128 key_of(int64_t content, int64_t rows) {
  Hash128 key;
  key.add(static_cast<uint64_t>(content));
  key.add(static_cast<uint64_t>(rows));
  return key;
}

Tokens tokens_of(int64_t content, int64_t rows) { return Tokens(static_cast<size_t>(rows), content); }

// What each block holds, by plain lists: no hashing, no sharing of code.
struct Oracle {
  struct Block {
    int64_t users = 0;
    int64_t whole = -1;
    int64_t tail = -1;
    int64_t tail_rows = 0;
    int64_t released = 0;  // when the last user left
    bool kept() const { return users == 0 && (whole >= 0 || tail >= 0); }
    bool empty() const { return users == 0 && !kept(); }
  };
  std::vector<Block> blocks;
  int64_t clock = 0;
  int64_t evictions = 0;

  int32_t find_whole(int64_t content) const {
    for (size_t b = 0; b < blocks.size(); ++b) {
      if (blocks[b].whole == content) return static_cast<int32_t>(b);
    }
    return -1;
  }
  int32_t find_tail(int64_t content, int64_t rows) const {
    for (size_t b = 0; b < blocks.size(); ++b) {
      if (blocks[b].tail == content && blocks[b].tail_rows == rows) return static_cast<int32_t>(b);
    }
    return -1;
  }
  int64_t available() const {
    return std::count_if(blocks.begin(), blocks.end(), [](const Block& b) { return b.users == 0; });
  }
  // The block that must be taken next: the lowest empty one, else the one kept longest.
  int32_t next() const {
    int32_t best = -1;
    for (size_t b = 0; b < blocks.size(); ++b) {
      if (blocks[b].empty()) return static_cast<int32_t>(b);
      if (!blocks[b].kept()) continue;
      if (best < 0 || blocks[b].released < blocks[static_cast<size_t>(best)].released) best = static_cast<int32_t>(b);
    }
    return best;
  }
  void take(int32_t id) {
    Block& block = blocks[static_cast<size_t>(id)];
    if (block.kept()) ++evictions;
    block = Block{};
    block.users = 1;
  }
  void release(const std::vector<int32_t>& ids) {
    for (auto it = ids.rbegin(); it != ids.rend(); ++it) {
      Block& block = blocks[static_cast<size_t>(*it)];
      block.users -= 1;
      block.released = ++clock;
    }
  }
};

void run_random(uint32_t seed, int64_t size, int steps) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint32_t>(n)); };
  BlockStore store(size);
  Oracle oracle;
  oracle.blocks.resize(static_cast<size_t>(size));
  std::vector<std::vector<int32_t>> sequences;
  for (int i = 0; i < steps; ++i) {
    const int64_t what = below(10);
    const int64_t content = below(3 * size);
    const int64_t rows = 1 + below(kBlockTokens - 1);
    if (what < 3) {
      const int64_t count = 1 + below(3);
      if (count > store.available()) continue;
      std::vector<int32_t> expected;
      for (int64_t k = 0; k < count; ++k) {
        expected.push_back(oracle.next());
        oracle.take(expected.back());
      }
      sequences.push_back(store.take(count));
      CHECK_THAT(sequences.back() == expected);
    } else if (what < 5) {
      const Tokens tokens = tokens_of(content, kBlockTokens);
      const int32_t found = store.share(key_of(content, kBlockTokens), tokens.data());
      CHECK_THAT(found == oracle.find_whole(content));
      if (found < 0) continue;
      oracle.blocks[static_cast<size_t>(found)].users += 1;
      sequences.push_back({found});
    } else if (what < 6) {
      const Tokens tokens = tokens_of(content, rows);
      const int32_t found = store.share_tail(key_of(content, rows), tokens.data(), rows);
      CHECK_THAT(found == oracle.find_tail(content, rows));
      if (found < 0) continue;
      oracle.blocks[static_cast<size_t>(found)].users += 1;
      sequences.push_back({found});
    } else if (!sequences.empty()) {
      std::vector<int32_t>& sequence = sequences[static_cast<size_t>(below(static_cast<int64_t>(sequences.size())))];
      const int32_t id = sequence[static_cast<size_t>(below(static_cast<int64_t>(sequence.size())))];
      Oracle::Block& block = oracle.blocks[static_cast<size_t>(id)];
      if (what < 7) {
        store.publish(id, key_of(content, kBlockTokens), tokens_of(content, kBlockTokens).data());
        if (block.whole < 0 && oracle.find_whole(content) < 0) block.whole = content;
      } else if (what < 8) {
        store.publish_tail(id, key_of(content, rows), tokens_of(content, rows).data(), rows);
        if (block.tail < 0 && oracle.find_tail(content, rows) < 0) {
          block.tail = content;
          block.tail_rows = rows;
        }
      } else {
        oracle.release(sequence);
        store.release(sequence);
        CHECK_THAT(sequence.empty());
        std::swap(sequence, sequences.back());
        sequences.pop_back();
      }
    }
    CHECK_THAT(store.available() == oracle.available() && store.used() == size - oracle.available());
    CHECK_THAT(store.evictions() == oracle.evictions);
  }
  std::map<int32_t, int64_t> uses;
  for (const auto& sequence : sequences) {
    for (int32_t id : sequence) uses[id] += 1;
  }
  for (int32_t id = 0; id < size; ++id) CHECK_THAT(store.users(id) == (uses.count(id) ? uses[id] : 0));
  for (auto& sequence : sequences) store.release(sequence);
  CHECK_THAT(store.used() == 0 && store.available() == size);
}

}  // namespace

TEST(block_store_agrees_with_a_plain_model_of_it) {
  for (uint32_t seed = 1; seed <= 20; ++seed) run_random(seed, 1 + seed % 13, 5000);
}

TEST(block_store_compares_tokens_not_hashes_alone) {
  BlockStore store(4);
  std::vector<int32_t> mine = store.take(2);
  const Hash128 key = key_of(7, kBlockTokens);
  store.publish(mine[0], key, tokens_of(7, kBlockTokens).data());
  store.publish_tail(mine[1], key, tokens_of(7, 5).data(), 5);
  CHECK_THAT(store.share(key, tokens_of(8, kBlockTokens).data()) == -1);
  CHECK_THAT(store.share_tail(key, tokens_of(8, 5).data(), 5) == -1);
  CHECK_THAT(store.share_tail(key, tokens_of(7, kBlockTokens).data(), 6) == -1);
  CHECK_THAT(store.share(key, tokens_of(7, kBlockTokens).data()) == mine[0]);
  CHECK_THAT(store.share_tail(key, tokens_of(7, 5).data(), 5) == mine[1]);
  std::vector<int32_t> again{mine[0], mine[1]};
  store.release(again);
  store.release(mine);
  CHECK_THAT(store.used() == 0 && store.kept() == 2);
}

TEST(block_store_gives_up_the_end_of_a_sequence_before_its_beginning) {
  BlockStore store(3);
  std::vector<int32_t> mine = store.take(3);
  const std::vector<int32_t> blocks = mine;
  for (int64_t b = 0; b < 3; ++b) {
    store.publish(blocks[static_cast<size_t>(b)], key_of(b, kBlockTokens), tokens_of(b, kBlockTokens).data());
  }
  store.release(mine);
  CHECK_THAT(store.take(1).front() == blocks[2]);
  CHECK_THAT(store.take(1).front() == blocks[1]);
  CHECK_THAT(store.share(key_of(0, kBlockTokens), tokens_of(0, kBlockTokens).data()) == blocks[0]);
  CHECK_THAT(store.evictions() == 2);
}

}  // namespace chatspace::testing
