// SPDX-License-Identifier: Apache-2.0
// Body of the kernel that steers a site and takes the norm that follows it in one pass: a block a row of the
// step. A row of the site's tables is steered first; the others are normed alone. Thread t owns elements
// t, t + size, ... in both halves and reads back only what it wrote itself, so nothing waits in between.
#pragma once

#include "kernels/cuda/norm_row.cuh"
#include "kernels/cuda/steer_row.cuh"

namespace chatspace::cuda {

// Where `row` stands in the table of the rows that act, -1 where it is not there. `list`: `active` of the
// step's `rows` rows, ascending, each once. At most rows - active of the rows before it are left out, so
// where all rows act nothing is searched.
CHATSPACE_FN int64_t find_work(const SteerRow* list, int64_t active, int64_t rows, int64_t row) {
  int64_t low = row < rows - active ? 0 : row - (rows - active);
  int64_t high = row < active ? row : active - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (list[middle].row < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low == high && list[low].row == row ? low : -1;
}

// h: [steer_floats(hidden)] working memory of this block; not touched where the row has no work.
template <class Block>
CHATSPACE_FN void steer_norm_row(Block& block, const SteerNormArgs& args, int64_t row, float* h) {
  const int64_t work = find_work(args.steer.rows, args.steer.active, args.norm.rows, row);
  if (work >= 0) steer_row(block, args.steer, args.steer.rows[work], h);
  rms_norm_row(block, args.norm, row);
}

// Block `row` of a recorded step: see steer_slot_row.
template <class Block>
CHATSPACE_FN void steer_norm_slot_row(Block& block, const SlotNormArgs& args, int64_t row, float* h) {
  SlotEntry& entry = reinterpret_cast<SlotEntry*>(args.slot.tables)[args.slot.slot];
  if (row == 0 && block.rank() == 0) entry.visited = 1;
  const SteerArgs site = slot_work(args.slot, entry);
  const int64_t work = find_work(site.rows, site.active, args.norm.rows, row);
  if (work >= 0) steer_row(block, site, site.rows[work], h);
  rms_norm_row(block, args.norm, row);
}

}  // namespace chatspace::cuda
