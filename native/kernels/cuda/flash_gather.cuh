// SPDX-License-Identifier: Apache-2.0
// Bodies that bring a step's prompt chunks together for the library's flash attention and spread its results
// again (kernels/cuda/flash_plan.h). Keys and values are copied as bits; queries are rounded once to 16 bits.
#pragma once

#include "kernels/cuda/flash_args.h"
#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

// Elements from position to position of the tile in which a key block is turned: an odd number of words, so
// that neither the rows nor the columns of it meet in one bank.
CHATSPACE_FN int64_t flash_tile_stride(int64_t dim) { return (dim / 2 | 1) * 2; }

// Cache block `at` of chunk `chunk`, one key/value head. tile: [kBlock * flash_tile_stride(head_dim)] of the block.
template <class Block>
CHATSPACE_FN void gather_keys_and_values(Block& block, const FlashArgs& args, int64_t at, int64_t head, int64_t chunk,
                                         uint16_t* tile) {
  const int64_t dim = args.head_dim;
  const int64_t start = args.key_starts[chunk];
  const int64_t first = args.first_keys[chunk];
  const int64_t end = first + args.key_starts[chunk + 1] - start;
  const int64_t logical = first / kBlock + at;
  const int64_t from = logical * kBlock < first ? first : logical * kBlock;
  const int64_t to = (logical + 1) * kBlock < end ? (logical + 1) * kBlock : end;
  if (from >= to) return;
  const int64_t physical = args.block_tables[args.sequence_ids[chunk] * args.table_stride + logical];
  const int64_t offset = (physical * args.kv_heads + head) * dim * kBlock;
  const int64_t stride = flash_tile_stride(dim);
  for (int64_t i = block.rank(); i < dim * kBlock; i += block.size()) {
    tile[i % kBlock * stride + i / kBlock] = args.keys[offset + i];
  }
  block.sync();
  for (int64_t i = block.rank(); i < (to - from) * dim; i += block.size()) {
    const int64_t position = from + i / dim;
    const int64_t slot = position % kBlock;
    const int64_t d = i % dim;
    const int64_t out = ((start + position - first) * args.kv_heads + head) * dim + d;
    args.dense_keys[out] = tile[slot * stride + d];
    args.dense_values[out] = args.values[offset + slot * dim + d];
  }
}

// The step's row that stands at `packed` among the rows of all chunks.
CHATSPACE_FN int64_t row_of_packed(const FlashArgs& args, int64_t packed) {
  int64_t low = 0;
  int64_t high = args.sequences - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (args.query_starts[middle + 1] <= packed) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return args.first_rows[low] + packed - args.query_starts[low];
}

template <class Half, class Block>
CHATSPACE_FN void pack_query_row(Block& block, const FlashArgs& args, int64_t packed) {
  const int64_t width = args.heads * args.head_dim;
  const float* from = args.queries + row_of_packed(args, packed) * width;
  uint16_t* to = args.dense_queries + packed * width;
  for (int64_t i = block.rank(); i < width; i += block.size()) to[i] = from_float<Half>(from[i]).bits;
}

template <class Block>
CHATSPACE_FN void unpack_result_row(Block& block, const FlashArgs& args, int64_t packed) {
  const int64_t width = args.heads * args.head_dim;
  const uint16_t* from = args.dense_results + packed * width;
  uint16_t* to = args.out + row_of_packed(args, packed) * width;
  for (int64_t i = block.rank(); i < width; i += block.size()) to[i] = from[i];
}

}  // namespace chatspace::cuda
