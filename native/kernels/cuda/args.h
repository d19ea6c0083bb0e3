// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels take: plain structs without CUDA or torch headers, so that the kernels' bodies
// also compile for the CPU, where native/tests runs them. Pointers are device memory, matrices are
// row-major and dense, every index is 64-bit.
#pragma once

#include <cstdint>

#include "kernels/steer_types.h"

namespace chatspace::cuda {

enum class Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
enum class Activation : int32_t { kSilu = 0, kGeluTanh = 1, kGelu = 2, kRelu = 3 };

struct ConstArray {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
};
struct Array {
  void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
};

// out [rows, hidden] float32 = table[ids]; a row whose id is outside the table becomes NaN.
struct EmbedArgs {
  const int64_t* ids;
  ConstArray table;  // [entries, hidden]
  float* out;
  int64_t rows;
  int64_t entries;
  int64_t hidden;
};

// sum = delta + residual; normed = norm(sum) * weight (+ bias).
struct NormArgs {
  ConstArray delta;           // [rows, hidden]
  const float* residual;      // [rows, hidden]; nullptr = zero
  float* sum;                 // [rows, hidden]; nullptr = not wanted
  ConstArray weight;          // [hidden]
  ConstArray bias;            // [hidden]; data nullptr = none
  Array normed;               // [rows, hidden]
  int64_t rows;
  int64_t hidden;
  float eps;
};

// out = act(gate) * up, or act(gate) where `up` is absent. out may be gate.
struct ActivationArgs {
  ConstArray gate;
  ConstArray up;  // data nullptr = none; otherwise of gate's dtype
  Array out;      // of gate's dtype
  int64_t elements;
  Activation act;
};

// One attention layer's step. See AttentionCall in ops/backend.h for the shapes of the cache.
struct AttentionArgs {
  int64_t rows;
  int64_t sequences;
  int64_t max_blocks;  // width of block_tables
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;  // 1 .. kMaxHeadDim
  int64_t rotary_dim;
  bool interleaved;
  float scale;
  float softcap;
  int64_t window;
  float norm_eps;

  ConstArray qkv;      // [rows, (heads + 2 kv_heads) * head_dim]
  ConstArray q_norm;   // [head_dim]; data nullptr = none
  ConstArray k_norm;   // [head_dim]; data nullptr = none
  const float* cos;    // [rows, rotary_dim / 2]
  const float* sin;
  const int32_t* positions;     // [rows]
  const int32_t* row_sequence;  // [rows]
  const int32_t* block_tables;  // [sequences, max_blocks]
  Array keys;                   // [blocks, kv_heads, head_dim, kBlock]
  Array values;                 // [blocks, kv_heads, kBlock, head_dim]

  float* queries;      // scratch [rows, heads, head_dim]: q after norm and rotary
  int32_t* single;     // scratch [sequences]: the row of a sequence that has one row in this step, else -1
  int64_t splits;      // parts a decode row's context is cut into; attention_splits()
  int64_t split_blocks;
  float* partial;      // scratch [sequences, heads, splits, head_dim + 2]; nullptr when splits == 1
  Array out;           // [rows, heads * head_dim]
};

constexpr int64_t kBlock = 32;  // positions of a cache block; equals kBlockTokens of ops/backend.h
constexpr int64_t kMaxHeadDim = 256;

struct AttentionSplits {
  int64_t splits;
  int64_t split_blocks;
};
// Depends on the width of the block tables alone, never on the batch, so that with tables of one width a
// row is summed in the same order alone and in any company.
inline AttentionSplits attention_splits(int64_t max_blocks) {
  constexpr int64_t kSplitBlocks = 8;  // 256 positions: two cache blocks a warp
  constexpr int64_t kMostSplits = 64;  // bounds the scratch and the merge
  const int64_t least = (max_blocks + kMostSplits - 1) / kMostSplits;
  const int64_t split_blocks = least > kSplitBlocks ? least : kSplitBlocks;
  const int64_t splits = (max_blocks + split_blocks - 1) / split_blocks;
  return {splits < 1 ? 1 : splits, split_blocks};
}

struct SteerArgs {
  const SteerRow* rows;  // the rows with something to do, one block each
  const SteerEntry* entries;
  const SteerOp* ops;  // SteerOp::counter indexes `counters`
  float* const* captures;
  const SteerReading* readings;
  SteerCounter* counters;
  int64_t active;  // entries of rows
  int64_t hidden;
  Array delta;         // [rows of the step, hidden]
  Array residual;      // data nullptr = none
  bool to_residual;    // write the change to the residual instead of delta
  float* scratch;      // [active, steer_floats(hidden)] when a row does not fit shared memory, else nullptr
};
// Working memory of a row: h, then what a subspace adds along each direction. (Host code; a kernel spells it out.)
constexpr int64_t steer_floats(int64_t hidden) { return hidden + kSteerMaxRank; }
// Floats a row's working memory may have before `scratch` is needed.
constexpr int64_t kSteerSharedFloats = 10240;

}  // namespace chatspace::cuda
