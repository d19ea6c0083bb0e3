// SPDX-License-Identifier: Apache-2.0
// Online softmax of one warp over cache blocks: up to Q queries of one key/value head at once, so that
// keys and values are read once for all of them. A lane is a key while scores are made and a dimension
// while values are summed. Method: Milakov and Gimelshein, arXiv 1805.02867.
#pragma once

#include <cmath>

#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

// Which keys of a cache block a query sees: first .. last within the block; empty when first > last.
struct KeyRange {
  int first;
  int last;
};

CHATSPACE_FN KeyRange visible_keys(int64_t block, int64_t from, int64_t to) {
  const int64_t start = block * kBlock;
  const int64_t first = from > start ? from - start : 0;
  const int64_t last = to < start + kBlock - 1 ? to - start : kBlock - 1;
  return first > last ? KeyRange{1, 0} : KeyRange{static_cast<int>(first), static_cast<int>(last)};
}

// First position a query at `position` sees.
CHATSPACE_FN int64_t first_visible(int64_t window, int64_t position) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

constexpr float kNothing = -INFINITY;

// Q queries, L * 32 >= head_dim dimensions.
template <int Q, int L>
struct WarpAttention {
  float highest[Q];
  float total[Q];
  float mixed[Q][L];

  CHATSPACE_FN void clear() {
    CHATSPACE_UNROLL
    for (int q = 0; q < Q; ++q) {
      highest[q] = kNothing;
      total[q] = 0.0f;
      CHATSPACE_UNROLL
      for (int part = 0; part < L; ++part) mixed[q][part] = 0.0f;
    }
  }

  // queries [Q, dim], keys [dim, kBlock], values [kBlock, dim], weights [Q, kBlock] of this warp.
  // Slots outside every range may hold anything, NaN too: their scores are dropped and their values
  // never read.
  template <class Cache, class Block>
  CHATSPACE_FN void absorb(Block& block, const float* queries, const Cache* keys, const Cache* values, int dim,
                           const KeyRange (&ranges)[Q], float scale, float softcap, float* weights) {
    const int lane = block.lane();
    float scores[Q];
    CHATSPACE_UNROLL
    for (int q = 0; q < Q; ++q) scores[q] = 0.0f;
    for (int d = 0; d < dim; ++d) {
      const float key = to_float(keys[d * kBlock + lane]);
      CHATSPACE_UNROLL
      for (int q = 0; q < Q; ++q) scores[q] += queries[q * dim + d] * key;
    }

    int first = static_cast<int>(kBlock);
    int last = -1;
    CHATSPACE_UNROLL
    for (int q = 0; q < Q; ++q) {
      const KeyRange range = ranges[q];
      if (range.first <= range.last) {
        first = range.first < first ? range.first : first;
        last = range.last > last ? range.last : last;
      }
      float score = scores[q] * scale;
      if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
      if (lane < range.first || lane > range.last) score = kNothing;
      const float top = fmaxf(highest[q], block.warp_max(score));
      // Nothing seen yet: exp(-inf - -inf) would be NaN.
      const float weight = top == kNothing ? 0.0f : expf(score - top);
      const float shrink = top == kNothing ? 1.0f : expf(highest[q] - top);
      total[q] = total[q] * shrink + block.warp_sum(weight);
      highest[q] = top;
      CHATSPACE_UNROLL
      for (int part = 0; part < L; ++part) mixed[q][part] *= shrink;
      weights[q * kBlock + lane] = weight;
    }
    block.sync_warp();
    for (int key = first; key <= last; ++key) {
      CHATSPACE_UNROLL
      for (int part = 0; part < L; ++part) {
        const int d = lane + 32 * part;
        const float value = d < dim ? to_float(values[key * dim + d]) : 0.0f;
        CHATSPACE_UNROLL
        for (int q = 0; q < Q; ++q) mixed[q][part] += weights[q * kBlock + key] * value;
      }
    }
    block.sync_warp();  // the weights may be overwritten
  }
};

}  // namespace chatspace::cuda
