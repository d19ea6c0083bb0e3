// SPDX-License-Identifier: Apache-2.0
// Body for rows of sequences with several rows in the step (prompt chunks). A block takes a few
// neighbouring rows with the query heads of one key/value head; a cache block is brought into shared
// memory once for all of them, and each warp keeps Q queries. Rows of several sequences may meet in a
// block: they are walked run by run. Runs that are a sequence's only row are left to attend_single
// unless args.all_chunks says otherwise; padding is passed over.
#pragma once

#include "kernels/cuda/attention_warp.cuh"
#include "kernels/cuda/rotary_row.cuh"

namespace chatspace::cuda {

// How query heads and rows share a block's query slots.
struct ChunkShape {
  int64_t heads;   // query heads a block takes
  int64_t chunks;  // blocks a key/value head needs for its query heads
  int64_t rows;    // rows a block takes
};

#if defined(__CUDACC__)
__host__ __device__
#endif
inline ChunkShape chunk_shape(int64_t group, int64_t slots) {
  const int64_t heads = group < slots ? group : slots;
  return {heads, (group + heads - 1) / heads, slots / heads};
}

// Floats of shared memory attend_chunk needs.
inline int64_t chunk_shared_floats(int queries, int warps, int64_t dim) {
  return static_cast<int64_t>(warps) * queries * (dim + kBlock) + 2 * dim * kBlock;
}

template <int Q, int L, class Cache, class Block>
CHATSPACE_FN void attend_chunk(Block& block, const AttentionArgs& args, int64_t tile, int64_t kv_item, float* shared) {
  const int64_t group = args.heads / args.kv_heads;
  const ChunkShape shape = chunk_shape(group, static_cast<int64_t>(block.warps()) * Q);
  const int64_t kv_head = kv_item / shape.chunks;
  const int64_t in_group = kv_item % shape.chunks * shape.heads;
  const int64_t heads = group - in_group < shape.heads ? group - in_group : shape.heads;
  const int dim = static_cast<int>(args.head_dim);

  float* queries = shared;
  float* keys = queries + block.warps() * Q * dim;
  float* values = keys + dim * kBlock;
  float* weights = values + dim * kBlock + block.warp() * Q * kBlock;

  const int64_t tile_first = tile * shape.rows;
  const int64_t tile_end = tile_first + shape.rows < args.rows ? tile_first + shape.rows : args.rows;
  for (int64_t run = tile_first; run < tile_end;) {
    const int64_t sequence = args.row_sequence[run];
    int64_t run_end = run + 1;
    while (run_end < tile_end && args.row_sequence[run_end] == sequence) ++run_end;
    const int64_t first_row = run;
    run = run_end;
    if (sequence < 0 || (!args.all_chunks && is_single_row(args, first_row))) continue;

    const int64_t count = (run_end - first_row) * heads;
    block.sync();  // the last run's queries are no longer read
    for (int64_t i = block.rank(); i < block.warps() * Q * dim; i += block.size()) {
      const int64_t slot = i / dim;
      const int64_t head = kv_head * group + in_group + slot % heads;
      queries[i] = slot < count
                       ? args.queries[((first_row + slot / heads) * args.heads + head) * dim + i % dim]
                       : 0.0f;
    }
    int from[Q];  // positions; 32 bits because these live in registers beside the sums
    int to[Q];
    CHATSPACE_UNROLL
    for (int q = 0; q < Q; ++q) {
      const int64_t slot = block.warp() * Q + q;
      to[q] = slot < count ? args.positions[first_row + slot / heads] : -1;
      from[q] = slot < count ? static_cast<int>(first_visible(args.window, to[q])) : 0;
    }

    WarpAttention<Q, L> state;
    state.clear();
    const int64_t begin = first_visible(args.window, args.positions[first_row]) / kBlock;
    const int64_t end = args.positions[run_end - 1] / kBlock + 1;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t physical = args.block_tables[sequence * args.table_stride + at];
      const int64_t offset = (physical * args.kv_heads + kv_head) * dim * kBlock;
      const Cache* key_block = static_cast<const Cache*>(args.keys.data) + offset;
      const Cache* value_block = static_cast<const Cache*>(args.values.data) + offset;
      block.sync();  // the last block's keys and values are no longer read; the queries are there
      for (int i = block.rank(); i < dim * static_cast<int>(kBlock); i += block.size()) {
        keys[i] = to_float(key_block[i]);
        values[i] = to_float(value_block[i]);
      }
      block.sync();
      KeyRange ranges[Q];
      bool any = false;
      CHATSPACE_UNROLL
      for (int q = 0; q < Q; ++q) {
        ranges[q] = visible_keys(at, from[q], to[q]);
        any = any || ranges[q].first <= ranges[q].last;
      }
      if (any) {
        state.absorb(block, queries + block.warp() * Q * dim, keys, values, dim, ranges, args.scale, args.softcap,
                     weights);
      }
    }

    CHATSPACE_UNROLL
    for (int q = 0; q < Q; ++q) {
      const int64_t slot = block.warp() * Q + q;
      if (slot >= count) continue;
      const int64_t head = kv_head * group + in_group + slot % heads;
      const int64_t out = ((first_row + slot / heads) * args.heads + head) * dim;
      CHATSPACE_UNROLL
      for (int part = 0; part < L; ++part) {
        const int d = block.lane() + 32 * part;
        if (d < dim) store(args.out, out + d, state.mixed[q][part] / state.total[q]);
      }
    }
  }
}

}  // namespace chatspace::cuda
