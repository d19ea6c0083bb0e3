// SPDX-License-Identifier: Apache-2.0
// Bodies for rows that are their sequence's only row of the step (decode). A block takes one sequence,
// one key/value head with up to Q of its query heads, and one part of the context; its warps take
// cache blocks in turn and their results are merged in a fixed order. With several parts a second
// kernel merges those, again in order: no atomics, so a result never varies from run to run.
#pragma once

#include "kernels/cuda/attention_warp.cuh"

namespace chatspace::cuda {

// Floats of shared memory attend_single needs.
inline int64_t single_shared_floats(int queries, int warps, int64_t dim) {
  return queries * dim + static_cast<int64_t>(warps) * queries * (kBlock + dim + 2);
}

// Cache blocks of one part of a row's context. Depends on the row's position alone, never on the batch or on
// the width of the tables, so that a row is summed in the same order alone and in any company.
CHATSPACE_FN int64_t row_split_blocks(const AttentionArgs& args, int64_t position) {
  const int64_t least = (position / kBlock + kMostSplits) / kMostSplits;
  return least > args.split_blocks ? least : args.split_blocks;
}

template <int Q, int L, class Cache, class Block>
CHATSPACE_FN void attend_single(Block& block, const AttentionArgs& args, int64_t sequence, int64_t kv_item,
                                int64_t split, float* shared) {
  const int64_t row = args.single[sequence];
  if (row < 0) return;
  const int64_t group = args.heads / args.kv_heads;
  const int64_t chunks = (group + Q - 1) / Q;
  const int64_t kv_head = kv_item / chunks;
  const int64_t in_group = kv_item % chunks * Q;
  const int64_t head = kv_head * group + in_group;
  const int count = static_cast<int>(group - in_group < Q ? group - in_group : Q);
  const int dim = static_cast<int>(args.head_dim);
  const int64_t position = args.positions[row];
  const int64_t from = first_visible(args.window, position);

  float* queries = shared;
  float* weights = queries + Q * dim + block.warp() * Q * kBlock;
  float* merge = queries + Q * dim + block.warps() * Q * kBlock;
  const int stride = dim + 2;  // highest, total, mixed
  for (int i = block.rank(); i < Q * dim; i += block.size()) {
    queries[i] = i < count * dim ? args.queries[(row * args.heads + head) * dim + i] : 0.0f;
  }
  block.sync();

  WarpAttention<Q, L> state;
  state.clear();
  const int64_t split_blocks = row_split_blocks(args, position);
  const int64_t split_first = split * split_blocks;
  const int64_t split_end = split_first + split_blocks;
  const int64_t begin = from / kBlock > split_first ? from / kBlock : split_first;
  const int64_t end = position / kBlock + 1 < split_end ? position / kBlock + 1 : split_end;
  for (int64_t at = begin + block.warp(); at < end; at += block.warps()) {
    const int64_t physical = args.block_tables[sequence * args.table_stride + at];
    const int64_t offset = (physical * args.kv_heads + kv_head) * dim * kBlock;
    const KeyRange seen = visible_keys(at, from, position);
    KeyRange ranges[Q];
    CHATSPACE_UNROLL
    for (int q = 0; q < Q; ++q) ranges[q] = q < count ? seen : KeyRange{1, 0};
    state.absorb(block, queries, static_cast<const Cache*>(args.keys.data) + offset,
                 static_cast<const Cache*>(args.values.data) + offset, dim, ranges, args.scale, args.softcap, weights);
  }

  float* mine = merge + block.warp() * Q * stride;
  CHATSPACE_UNROLL
  for (int q = 0; q < Q; ++q) {
    if (block.lane() == 0) {
      mine[q * stride] = state.highest[q];
      mine[q * stride + 1] = state.total[q];
    }
    CHATSPACE_UNROLL
    for (int part = 0; part < L; ++part) {
      const int d = block.lane() + 32 * part;
      if (d < dim) mine[q * stride + 2 + d] = state.mixed[q][part];
    }
  }
  block.sync();

  for (int i = block.rank(); i < count * dim; i += block.size()) {
    const int q = i / dim;
    const int d = i % dim;
    float highest = kNothing;
    for (int w = 0; w < block.warps(); ++w) highest = fmaxf(highest, merge[(w * Q + q) * stride]);
    float total = 0.0f;
    float mixed = 0.0f;
    for (int w = 0; w < block.warps(); ++w) {
      const float* part = merge + (w * Q + q) * stride;
      const float shrink = part[0] == kNothing ? 0.0f : expf(part[0] - highest);
      total += part[1] * shrink;
      mixed += part[2 + d] * shrink;
    }
    if (args.partial == nullptr) {
      store(args.out, (row * args.heads + head + q) * dim + d, mixed / total);
    } else {
      float* out = args.partial + ((sequence * args.heads + head + q) * args.splits + split) * stride;
      if (d == 0) {
        out[0] = highest;
        out[1] = total;
      }
      out[2 + d] = mixed;
    }
  }
}

// One sequence and head a block, a thread a dimension.
template <class Block>
CHATSPACE_FN void merge_splits(Block& block, const AttentionArgs& args, int64_t sequence, int64_t head) {
  const int64_t row = args.single[sequence];
  if (row < 0) return;
  const int64_t stride = args.head_dim + 2;
  const float* parts = args.partial + (sequence * args.heads + head) * args.splits * stride;
  float highest = kNothing;
  for (int64_t s = 0; s < args.splits; ++s) highest = fmaxf(highest, parts[s * stride]);
  for (int64_t d = block.rank(); d < args.head_dim; d += block.size()) {
    float total = 0.0f;
    float mixed = 0.0f;
    for (int64_t s = 0; s < args.splits; ++s) {
      const float* part = parts + s * stride;
      const float shrink = part[0] == kNothing ? 0.0f : expf(part[0] - highest);
      total += part[1] * shrink;
      mixed += part[2 + d] * shrink;
    }
    store(args.out, (row * args.heads + head) * args.head_dim + d, mixed / total);
  }
}

}  // namespace chatspace::cuda
