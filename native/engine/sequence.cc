// SPDX-License-Identifier: Apache-2.0
#include "engine/sequence.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "ops/backend.h"

namespace chatspace {

const Hash128& Sequence::block_key(size_t index) {
  while (keys.size() <= index) {
    const int64_t first = static_cast<int64_t>(keys.size()) * kBlockTokens;
    Hash128 key = keys.empty() ? Hash128{} : keys.back();
    key.add_bytes(tokens.data() + first, kBlockTokens * sizeof(int64_t));
    const size_t width = spec.given_rows.empty() ? 0 : spec.given.size() / spec.given_rows.size();
    for (size_t i = 0; i < spec.given_rows.size(); ++i) {
      const int64_t row = spec.given_rows[i];
      if (row < first || row >= first + kBlockTokens) continue;
      key.add(static_cast<uint64_t>(row) + 1);
      key.add_bytes(spec.given.data() + i * width, width * sizeof(float));
    }
    if (program != nullptr) {
      program->signature(static_cast<int32_t>(first), static_cast<int32_t>(kBlockTokens), tokens.data() + first,
                         static_cast<int32_t>(prompt), key);
    }
    keys.push_back(key);
  }
  return keys[index];
}

void Sequence::adopt(size_t index) {
  reused_tokens += kBlockTokens;
  if (program == nullptr) return;
  const int64_t first = static_cast<int64_t>(index) * kBlockTokens;
  program->count_rows(static_cast<int32_t>(first), static_cast<int32_t>(kBlockTokens), tokens.data() + first,
                      static_cast<int32_t>(prompt), result.reused);
}

int64_t Sequence::first_needed() const {
  if (wants_prompt_rows() || !probes.empty()) return 0;
  int64_t needed = prompt - 1;
  for (const Capture& capture : captures) {
    for (int64_t position = 0; position < needed; ++position) {
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
