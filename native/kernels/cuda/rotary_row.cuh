// SPDX-License-Identifier: Apache-2.0
// Body of the kernel before attention: per row, each warp takes heads of q, k and v in turn. q goes to
// a float32 scratch, k and v into the paged cache, k transposed so that attention reads 32 positions
// of one dimension side by side.
#pragma once

#include <cmath>

#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

constexpr int kMaxLaneDims = static_cast<int>(kMaxHeadDim / 32);

// Is `row` its sequence's only row in this step?
CHATSPACE_FN bool is_single_row(const AttentionArgs& args, int64_t row) {
  const int32_t sequence = args.row_sequence[row];
  return (row == 0 || args.row_sequence[row - 1] != sequence) &&
         (row + 1 == args.rows || args.row_sequence[row + 1] != sequence);
}

// buffer: [head_dim] floats of this warp.
template <class Cache, class Block>
CHATSPACE_FN void rotary_row(Block& block, const AttentionArgs& args, int64_t row, float* buffer) {
  const int64_t dim = args.head_dim;
  const int64_t heads = args.heads;
  const int64_t kv_heads = args.kv_heads;
  const int64_t half = args.rotary_dim / 2;
  const int64_t position = args.positions[row];
  const int64_t sequence = args.row_sequence[row];
  if (sequence < 0) {
    // Padding: nothing may reach the cache, nobody else writes this row's result.
    if (block.rank() == 0) args.single[-1 - sequence] = -1;
    for (int64_t i = block.rank(); i < heads * dim; i += block.size()) store(args.out, row * heads * dim + i, 0.0f);
    return;
  }
  const int64_t physical = args.block_tables[sequence * args.table_stride + position / kBlock];
  const int64_t slot = position % kBlock;
  if (block.rank() == 0) {
    args.single[sequence] = !args.all_chunks && is_single_row(args, row) ? static_cast<int32_t>(row) : -1;
  }

  const int64_t items = heads + 2 * kv_heads;
  for (int64_t item = block.warp(); item < items; item += block.warps()) {
    const bool is_query = item < heads;
    const bool is_value = item >= heads + kv_heads;
    const ConstArray& norm = is_query ? args.q_norm : args.k_norm;
    const int64_t source = (row * items + item) * dim;

    float values[kMaxLaneDims];
    float squares = 0.0f;
    CHATSPACE_UNROLL
    for (int part = 0; part < kMaxLaneDims; ++part) {
      const int64_t d = block.lane() + 32 * part;
      values[part] = d < dim ? load(args.qkv, source + d) : 0.0f;
      squares += values[part] * values[part];
    }
    const bool normed = !is_value && norm.data != nullptr;
    float factor = 1.0f;
    if (normed) factor = 1.0f / sqrtf(block.warp_sum(squares) / static_cast<float>(dim) + args.norm_eps);
    CHATSPACE_UNROLL
    for (int part = 0; part < kMaxLaneDims; ++part) {
      const int64_t d = block.lane() + 32 * part;
      if (d < dim) buffer[d] = normed ? values[part] * factor * load(norm, d) : values[part];
    }
    block.sync_warp();

    for (int64_t d = block.lane(); d < dim; d += 32) {
      float value = buffer[d];
      if (!is_value && d < args.rotary_dim) {
        const int64_t pair = args.interleaved ? d / 2 : d % half;
        const bool first = args.interleaved ? d % 2 == 0 : d < half;
        const float other = buffer[args.interleaved ? (first ? d + 1 : d - 1) : (first ? d + half : d - half)];
        const float cosine = args.cos[row * half + pair];
        const float sine = args.sin[row * half + pair];
        value = first ? value * cosine - other * sine : value * cosine + other * sine;
      }
      if (is_query) {
        args.queries[(row * heads + item) * dim + d] = value;
      } else if (is_value) {
        const int64_t head = item - heads - kv_heads;
        static_cast<Cache*>(args.values.data)[((physical * kv_heads + head) * kBlock + slot) * dim + d] =
            from_float<Cache>(value);
      } else {
        const int64_t head = item - heads;
        static_cast<Cache*>(args.keys.data)[((physical * kv_heads + head) * dim + d) * kBlock + slot] =
            from_float<Cache>(value);
      }
    }
    block.sync_warp();  // the buffer is free for the next head
  }
}

}  // namespace chatspace::cuda
