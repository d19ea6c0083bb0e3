// SPDX-License-Identifier: Apache-2.0
#include "engine/sequence.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "ops/backend.h"

namespace chatspace {

namespace {

// Adds what the keys and values of `count` positions from `first` on depend on beside those before them.
void add_rows(Hash128& key, const Sequence& sequence, int64_t first, int64_t count) {
  const RequestSpec& spec = sequence.spec;
  const int64_t* tokens = sequence.tokens.data() + first;
  key.add_bytes(tokens, static_cast<size_t>(count) * sizeof(int64_t));
  const size_t width = spec.given_rows.empty() ? 0 : spec.given.size() / spec.given_rows.size();
  for (size_t i = 0; i < spec.given_rows.size(); ++i) {
    const int64_t row = spec.given_rows[i];
    if (row < first || row >= first + count) continue;
    key.add(static_cast<uint64_t>(row) + 1);
    key.add_bytes(spec.given.data() + i * width, width * sizeof(float));
  }
  if (sequence.program != nullptr) {
    sequence.program->signature(static_cast<int32_t>(first), static_cast<int32_t>(count), tokens,
                                static_cast<int32_t>(sequence.prompt), key);
  }
}

}  // namespace

const Hash128& Sequence::block_key(size_t index) {
  while (keys.size() <= index) {
    Hash128 key = keys.empty() ? Hash128{} : keys.back();
    add_rows(key, *this, static_cast<int64_t>(keys.size()) * kBlockTokens, kBlockTokens);
    keys.push_back(key);
  }
  return keys[index];
}

int64_t Sequence::tail_rows() const { return (prompt - 1) % kBlockTokens; }

size_t Sequence::tail_block() const { return static_cast<size_t>((prompt - 1) / kBlockTokens); }

Hash128 Sequence::tail_key() {
  const size_t index = tail_block();
  Hash128 key = index == 0 ? Hash128{} : block_key(index - 1);
  add_rows(key, *this, static_cast<int64_t>(index) * kBlockTokens, tail_rows());
  return key;
}

void Sequence::adopt(int64_t end) {
  const int64_t first = std::max(computed, settled);
  computed = end;
  if (end <= first) return;
  settled = end;
  reused_tokens += end - first;
  if (program == nullptr) return;
  program->count_rows(static_cast<int32_t>(first), static_cast<int32_t>(end - first), tokens.data() + first,
                      static_cast<int32_t>(prompt), result.reused);
}

void Sequence::rewind() {
  computed = 0;
  published = 0;
  tail_published = false;
  needed = first_needed();
}

int64_t Sequence::first_needed() const {
  const int64_t last = length() - 1;
  if (!probes.empty() || (wants_prompt_rows() && settled < prompt)) return std::min(settled, last);
  int64_t needed = last;
  for (const Capture& capture : captures) {
    for (int64_t position = settled; position < needed; ++position) {
      const int32_t token = static_cast<int32_t>(tokens[static_cast<size_t>(position)]);
      if (capture.scope().selects(static_cast<int32_t>(position), token, static_cast<int32_t>(prompt))) {
        needed = position;
      }
    }
  }
  return needed;
}

int64_t Sequence::held_bytes() const {
  int64_t bytes = 0;
  for (const Capture& capture : captures) bytes += capture.held_bytes();
  return bytes;
}

int64_t Sequence::streamable() const {
  if (!spec.stream || row_bytes == 0) return std::numeric_limits<int64_t>::max();
  return std::max<int64_t>(1, (spec.buffer_bytes - unacknowledged - held_bytes()) / row_bytes);
}

}  // namespace chatspace
