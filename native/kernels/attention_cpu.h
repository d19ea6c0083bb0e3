// SPDX-License-Identifier: Apache-2.0
// Threaded attention of one layer over one step, on the current pool.
#pragma once

#include <cstdint>

#include "kernels/cpu_kernels.h"

namespace chatspace {

// Raw form of ops/backend.h's AttentionCall; shapes as stated there, everything contiguous.
struct AttentionStep {
  int64_t rows;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t rotary_dim;  // 0 = none
  bool interleaved;
  float scale;
  float softcap;
  int64_t window;
  const float* qkv;
  int64_t qkv_stride;
  const float* q_norm;  // or null
  const float* k_norm;
  float norm_eps;
  const float* cos;  // [rows, rotary_dim / 2]
  const float* sin;
  const int32_t* positions;
  const int32_t* row_sequence;
  const int32_t* block_tables;
  int64_t table_stride;
  void* keys;
  void* values;
  ElementType type;
  float* out;  // [rows, heads * head_dim]
};

// Rows of a sequence must be adjacent with ascending positions, and blocks in range.
void attention_step(const AttentionStep& step);

}  // namespace chatspace
