// SPDX-License-Identifier: Apache-2.0
// Prompt chunks for the library's flash attention: it wants queries, keys and values dense, one sequence after
// the other, and where each begins. Which layers it can serve, and that layout. Plain C++: native/tests runs it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/args.h"
#include "kernels/prompt_chunk.h"

namespace chatspace::cuda {

// Fewer rows of chunks than this stay with our kernel: bringing a long context together costs more than it saves.
constexpr int64_t kFlashRows = 64;

// What the library demands of a layer and a device (compute capability `major`.x); "" when it can serve them.
inline std::string flash_refusal(int64_t head_dim, float softcap, Dtype dtype, int major) {
  if (dtype == Dtype::kFloat32) return "it computes in bfloat16 or float16, the model is float32";
  if (major < 8) return "it needs compute capability 8.0 or more, the device has " + std::to_string(major) + ".x";
  if (softcap != 0.0f) return "it has no soft cap of scores";
  if (head_dim > 256 || head_dim % 8 != 0) {
    return "its heads have a multiple of 8 and at most 256 dimensions, the model's have " + std::to_string(head_dim);
  }
  return "";
}

struct FlashPlan {
  int64_t sequences = 0;
  int64_t total_q = 0;  // rows of all chunks
  int64_t total_k = 0;  // keys they see
  int64_t max_q = 0;    // of one sequence
  int64_t max_k = 0;
  int64_t max_blocks = 0;  // cache blocks that the keys of one sequence lie in, at most
  int64_t window_left = -1;  // keys before a row's own that it sees; -1 = all. None after its own.
  // For the device: starts of queries [n + 1] and of keys [n + 1], then per sequence its row of the block
  // tables, its first row in the step, the position of its first key.
  std::vector<int32_t> table;

  int64_t key_starts() const { return sequences + 1; }
  int64_t sequence_ids() const { return 2 * (sequences + 1); }
  int64_t first_rows() const { return sequence_ids() + sequences; }
  int64_t first_keys() const { return first_rows() + sequences; }
};

// window: as AttentionSpec, 0 = none. A row stands at the end of its keys: row i of n sees keys up to the one
// that n - 1 - i others follow, so keys before the first row's window can be left out and nothing shifts.
inline FlashPlan plan_flash(const std::vector<PromptChunk>& chunks, int64_t window) {
  FlashPlan plan;
  plan.sequences = static_cast<int64_t>(chunks.size());
  plan.window_left = window > 0 ? window - 1 : -1;
  plan.table.assign(static_cast<size_t>(plan.first_keys() + plan.sequences), 0);
  const auto put = [&](int64_t at, int64_t value) { plan.table[static_cast<size_t>(at)] = static_cast<int32_t>(value); };
  for (int64_t i = 0; i < plan.sequences; ++i) {
    const PromptChunk& chunk = chunks[static_cast<size_t>(i)];
    const int64_t first_position = chunk.context - chunk.rows;
    const int64_t first_key = window > 0 && first_position >= window ? first_position - window + 1 : 0;
    const int64_t keys = chunk.context - first_key;
    plan.total_q += chunk.rows;
    plan.total_k += keys;
    plan.max_q = chunk.rows > plan.max_q ? chunk.rows : plan.max_q;
    plan.max_k = keys > plan.max_k ? keys : plan.max_k;
    const int64_t blocks = (chunk.context - 1) / kBlock - first_key / kBlock + 1;
    plan.max_blocks = blocks > plan.max_blocks ? blocks : plan.max_blocks;
    put(i + 1, plan.total_q);
    put(plan.key_starts() + i + 1, plan.total_k);
    put(plan.sequence_ids() + i, chunk.sequence);
    put(plan.first_rows() + i, chunk.first_row);
    put(plan.first_keys() + i, first_key);
  }
  return plan;
}

}  // namespace chatspace::cuda
