// SPDX-License-Identifier: Apache-2.0
// Keys and values that are already there: full blocks shared, a prompt's tail copied, and work that a
// neighbour does in this very step waited for.
#include "engine/engine.h"

#include <algorithm>

#include "ops/backend.h"

namespace chatspace {

void Engine::share_prefix(Sequence& sequence) {
  if (!sequence.spec.reuse) return;
  const size_t whole = static_cast<size_t>(sequence.needed / kBlockTokens);
  while (sequence.blocks.size() < whole) {
    const size_t index = sequence.blocks.size();
    const int64_t* tokens = sequence.tokens.data() + static_cast<int64_t>(index) * kBlockTokens;
    const int32_t block = blocks_->share(sequence.block_key(index), tokens);
    if (block < 0) break;
    sequence.blocks.push_back(block);
  }
}

// The block whose first rows are this prompt's tail, now used once more, or -1. What is before the tail
// must be there already.
int32_t Engine::find_tail(Sequence& sequence) {
  const int64_t rows = sequence.tail_rows();
  if (!sequence.spec.reuse || rows == 0 || sequence.needed < sequence.prompt - 1) return -1;
  return blocks_->share_tail(sequence.tail_key(), sequence.tokens.data() + sequence.prompt - 1 - rows, rows);
}

void Engine::copy_tail(Sequence& sequence, int32_t from) {
  decoder_->copy_block(from, sequence.blocks[sequence.tail_block()]);
  std::vector<int32_t> one{from};
  blocks_->release(one);
  sequence.adopt(sequence.prompt - 1);
  book_.cache_hits += 1;
}

// Whether a chunk of this step computes all rows of block `index`, or of the tail where that is the block.
bool Engine::comes_in(Sequence& sequence, const std::vector<Chunk>& chunks, size_t index) {
  const bool tail = index == sequence.tail_block();
  const int64_t end = tail ? sequence.prompt - 1 : static_cast<int64_t>(index + 1) * kBlockTokens;
  return std::any_of(chunks.begin(), chunks.end(), [&](const Chunk& chunk) {
    Sequence& other = *chunk.sequence;
    if (other.computed >= end || other.computed + chunk.rows < end) return false;
    if (tail) return other.prompt == sequence.prompt && other.tail_key() == sequence.tail_key();
    return end <= other.length() && other.block_key(index) == sequence.block_key(index);
  });
}

// A second request with the same prefix waits a step rather than computing it beside the first one.
bool Engine::waits_for_prefix(Sequence& sequence, const std::vector<Chunk>& chunks) {
  if (!sequence.spec.reuse || blocks_->total() == 0 || sequence.computed % kBlockTokens != 0) return false;
  const int64_t before = sequence.reused_tokens;
  const size_t whole = static_cast<size_t>(sequence.needed / kBlockTokens);
  size_t index = static_cast<size_t>(sequence.computed / kBlockTokens);
  for (; index < whole; ++index) {
    const int64_t* tokens = sequence.tokens.data() + static_cast<int64_t>(index) * kBlockTokens;
    const int32_t block = blocks_->share(sequence.block_key(index), tokens);
    if (block < 0) break;
    std::vector<int32_t> own{sequence.blocks[index]};
    blocks_->release(own);
    sequence.blocks[index] = block;
    sequence.adopt(sequence.computed + kBlockTokens);
    sequence.published = index + 1;
    book_.cache_hits += 1;
  }
  bool waits = false;
  const bool at_tail = index == sequence.tail_block() && sequence.computed < sequence.prompt - 1;
  const int32_t tail = at_tail ? find_tail(sequence) : -1;
  if (tail >= 0) {
    copy_tail(sequence, tail);
  } else if (at_tail) {
    // A few rows are not worth a step.
    waits = sequence.needed >= sequence.prompt - 1 && 4 * sequence.tail_rows() >= kBlockTokens &&
            comes_in(sequence, chunks, index);
  } else if (index < whole) {
    waits = comes_in(sequence, chunks, index);
  }
  book_.cached_tokens += sequence.reused_tokens - before;
  return waits;
}

void Engine::publish(Sequence& sequence) {
  if (blocks_->total() == 0) return;
  while (static_cast<int64_t>(sequence.published + 1) * kBlockTokens <= sequence.computed) {
    const size_t index = sequence.published++;
    blocks_->publish(sequence.blocks[index], sequence.block_key(index),
                     sequence.tokens.data() + static_cast<int64_t>(index) * kBlockTokens);
  }
  const int64_t rows = sequence.tail_rows();
  if (sequence.tail_published || rows == 0 || sequence.computed < sequence.prompt - 1) return;
  sequence.tail_published = true;
  blocks_->publish_tail(sequence.blocks[sequence.tail_block()], sequence.tail_key(),
                        sequence.tokens.data() + sequence.prompt - 1 - rows, rows);
}

}  // namespace chatspace
