// SPDX-License-Identifier: Apache-2.0
// What the kernels around the library's flash attention take. Pointers are device memory; 16-bit values of one
// dtype, queries aside.
#pragma once

#include <cstdint>

#include "kernels/cuda/args.h"

namespace chatspace::cuda {

// See FlashPlan (kernels/cuda/flash_plan.h) for the tables.
struct FlashArgs {
  int64_t sequences;
  int64_t total_q;
  int64_t max_blocks;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  Dtype dtype;  // kBFloat16 or kFloat16

  const int32_t* query_starts;  // [sequences + 1]
  const int32_t* key_starts;    // [sequences + 1]
  const int32_t* sequence_ids;  // [sequences]
  const int32_t* first_rows;    // [sequences]
  const int32_t* first_keys;    // [sequences]
  const int32_t* block_tables;  // [sequences of the step, ...]
  int64_t table_stride;
  const uint16_t* keys;    // [blocks, kv_heads, head_dim, kBlock]
  const uint16_t* values;  // [blocks, kv_heads, kBlock, head_dim]
  const float* queries;    // [rows of the step, heads, head_dim]

  uint16_t* dense_queries;        // [total_q, heads, head_dim]
  uint16_t* dense_keys;           // [total_k, kv_heads, head_dim]
  uint16_t* dense_values;         // [total_k, kv_heads, head_dim]
  const uint16_t* dense_results;  // [total_q, heads, head_dim]
  uint16_t* out;                  // [rows of the step, heads, head_dim]; rows of no chunk are left as they are
};

}  // namespace chatspace::cuda
