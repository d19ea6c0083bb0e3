// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_cpu.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/thread_pool.h"

namespace chatspace {
namespace {

// Queries that share one pass over the keys.
constexpr int64_t kTileQueries = 24;

struct Task {
  int64_t row;
  int64_t rows;
  int64_t kv_head;
  int64_t split_begin;
  int64_t split_end;
  int64_t partial;  // offset in floats into the partials, -1 = merged in the task
};

struct Merge {
  int64_t row;
  int64_t kv_head;
  int64_t splits;
  int64_t stride;  // floats between splits
  int64_t partial;
};

void write_row(const AttentionStep& s, const CpuKernels& kernels, int64_t row, float* q, float* k) {
  const int64_t hd = s.head_dim;
  const float* in = s.qkv + row * s.qkv_stride;
  HeadsToRotate heads;
  heads.head_dim = hd;
  heads.eps = s.norm_eps;
  heads.rotary_dim = s.rotary_dim;
  heads.interleaved = s.interleaved;
  heads.cos = s.rotary_dim > 0 ? s.cos + row * (s.rotary_dim / 2) : nullptr;
  heads.sin = s.rotary_dim > 0 ? s.sin + row * (s.rotary_dim / 2) : nullptr;
  heads.in = in;
  heads.heads = s.heads;
  heads.norm = s.q_norm;
  heads.out = q + row * s.heads * hd;
  kernels.rotate(heads);
  heads.in = in + s.heads * hd;
  heads.heads = s.kv_heads;
  heads.norm = s.k_norm;
  heads.out = k;
  kernels.rotate(heads);
  const float* v = in + (s.heads + s.kv_heads) * hd;
  const int64_t position = s.positions[row];
  const int64_t block = s.block_tables[s.row_sequence[row] * s.table_stride + position / kAttentionBlock];
  const int64_t slot = position % kAttentionBlock;
  for (int64_t head = 0; head < s.kv_heads; ++head) {
    const int64_t base = (block * s.kv_heads + head) * hd * kAttentionBlock;
    const float* from = k + head * hd;
    if (s.type == ElementType::kFloat32) {
      float* to = static_cast<float*>(s.keys) + base + slot;
      for (int64_t d = 0; d < hd; ++d) to[d * kAttentionBlock] = from[d];
    } else {
      for (int64_t d = 0; d < hd; ++d) {
        float_to_element(from[d], s.keys, s.type, base + d * kAttentionBlock + slot);
      }
    }
    kernels.from_float(v + head * hd, s.type, hd,
                       static_cast<char*>(s.values) + (base + slot * hd) * element_bytes(s.type));
  }
}

}  // namespace

void attention_step(const AttentionStep& s) {
  if (s.rows <= 0) return;
  const CpuKernels& kernels = cpu_kernels();
  ThreadPool& pool = *current_pool();
  const int64_t hd = s.head_dim;
  const int64_t group = s.heads / s.kv_heads;
  const int64_t q_width = s.heads * hd;
  const std::unique_ptr<float[]> q(new float[static_cast<size_t>(s.rows * q_width)]);

  constexpr int64_t kWriteRows = 16;
  pool.parallel_for((s.rows + kWriteRows - 1) / kWriteRows, [&](int64_t chunk) {
    float* k = thread_scratch(Scratch::kRows, s.kv_heads * hd);
    const int64_t end = std::min(s.rows, (chunk + 1) * kWriteRows);
    for (int64_t row = chunk * kWriteRows; row < end; ++row) write_row(s, kernels, row, q.get(), k);
  });

  // Tiles of adjacent rows of one sequence; a lone row with a long context is cut at split boundaries.
  std::vector<Task> tasks;
  std::vector<Merge> merges;
  int64_t partial_floats = 0;
  const int64_t tile_rows = std::max<int64_t>(1, kTileQueries / group);
  const bool few = s.rows * s.kv_heads < 4 * pool.threads() && pool.threads() > 1;
  for (int64_t row = 0; row < s.rows;) {
    int64_t rows = 1;
    while (rows < tile_rows && row + rows < s.rows && s.row_sequence[row + rows] == s.row_sequence[row] &&
           s.positions[row + rows] == s.positions[row] + rows) {
      ++rows;
    }
    const int64_t first = s.positions[row];
    const int64_t last = s.positions[row + rows - 1];
    const int64_t begin = s.window > 0 ? std::max<int64_t>(0, first - s.window + 1) / kAttentionSplit : 0;
    const int64_t end = last / kAttentionSplit + 1;
    const int64_t width = rows * group * (hd + 2);
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      if (!few || end - begin < 4) {
        tasks.push_back({row, rows, head, begin, end, -1});
        continue;
      }
      const int64_t piece = std::max<int64_t>(1, (end - begin + 4 * pool.threads() - 1) / (4 * pool.threads()));
      for (int64_t i = 0; i < rows; ++i) {
        merges.push_back({row + i, head, end - begin, width, partial_floats + i * group * (hd + 2)});
      }
      for (int64_t at = begin; at < end; at += piece) {
        tasks.push_back({row, rows, head, at, std::min(end, at + piece), partial_floats + (at - begin) * width});
      }
      partial_floats += (end - begin) * width;
    }
    row += rows;
  }
  std::unique_ptr<float[]> partials;
  if (partial_floats > 0) partials.reset(new float[static_cast<size_t>(partial_floats)]);

  pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t chunk) {
    // From the end: the rows with the longest context first, so that the last chunks are short.
    const Task& task = tasks[tasks.size() - 1 - static_cast<size_t>(chunk)];
    AttentionTile tile;
    tile.q = q.get() + task.row * q_width + task.kv_head * group * hd;
    tile.q_stride = q_width;
    tile.rows = task.rows;
    tile.group = group;
    tile.head_dim = hd;
    tile.first_position = s.positions[task.row];
    tile.blocks = s.block_tables + s.row_sequence[task.row] * s.table_stride;
    const int64_t head_elements = hd * kAttentionBlock;
    tile.keys = static_cast<const char*>(s.keys) + task.kv_head * head_elements * element_bytes(s.type);
    tile.values = static_cast<const char*>(s.values) + task.kv_head * head_elements * element_bytes(s.type);
    tile.block_stride = s.kv_heads * head_elements;
    tile.type = s.type;
    tile.scale = s.scale;
    tile.softcap = s.softcap;
    tile.window = s.window;
    tile.split_begin = task.split_begin;
    tile.split_end = task.split_end;
    tile.out = s.out + task.row * q_width + task.kv_head * group * hd;
    tile.out_stride = q_width;
    tile.partials = task.partial < 0 ? nullptr : partials.get() + task.partial;
    kernels.attention(tile);
  });

  for (const Merge& merge : merges) {
    for (int64_t g = 0; g < group; ++g) {
      kernels.merge(partials.get() + merge.partial + g * (hd + 2), merge.stride, merge.splits, hd,
                    s.out + merge.row * q_width + (merge.kv_head * group + g) * hd);
    }
  }
}

}  // namespace chatspace
