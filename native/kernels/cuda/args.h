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

// out [rows, width] = act(gate) * up, or act(gate) where `up` is absent. gate and up may be columns of one
// wider matrix, out may be gate.
struct ActivationArgs {
  ConstArray gate;
  ConstArray up;  // data nullptr = none; otherwise of gate's dtype
  Array out;      // of gate's dtype
  int64_t rows;
  int64_t width;
  int64_t in_stride;   // elements from row to row of gate and of up
  int64_t out_stride;
  Activation act;
};

// A matrix of GGUF blocks in planes (kernels/quant_planes.h), aligned to 16 bytes.
enum class BlockType : int32_t { kQ8_0 = 0, kQ4_0 = 1, kQ4_1 = 2 };
struct BlockMatrix {
  const void* planes;
  BlockType type;
  int64_t rows;
  int64_t row_blocks;  // blocks of 32 weights a row
};

// out [rows, weight.rows] = x weight^T + bias, summed in float32.
struct QuantLinearArgs {
  BlockMatrix weight;
  ConstArray x;        // [rows, 32 weight.row_blocks], aligned to 16 bytes
  ConstArray bias;     // [weight.rows]; data nullptr = none
  Array out;
  int64_t out_stride;  // elements from row to row of out
  int64_t rows;
};

// out [rows, 32 weight.row_blocks] = rows [first_row, first_row + rows) of the matrix.
struct UnpackArgs {
  BlockMatrix weight;
  int64_t first_row;
  int64_t rows;
  Array out;
};

// EmbedArgs with a table in blocks.
struct QuantEmbedArgs {
  const int64_t* ids;
  BlockMatrix table;
  float* out;
  int64_t rows;
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
  const int32_t* row_sequence;  // [rows]; -1 - s: padding, the only row of sequence s
  const int32_t* block_tables;  // [sequences, max_blocks]
  int64_t table_stride;         // entries from sequence to sequence of block_tables
  Array keys;                   // [blocks, kv_heads, head_dim, kBlock]
  Array values;                 // [blocks, kv_heads, kBlock, head_dim]

  float* queries;      // scratch [rows, heads, head_dim]: q after norm and rotary
  int32_t* single;     // scratch [sequences]: the row of a sequence that has one row in this step, else -1
  bool all_chunks;     // rows alone in their sequence are left to the chunk kernel too
  int64_t splits;      // most parts a decode row's context is cut into; attention_splits()
  int64_t split_blocks;  // cache blocks of a part, unless the row needs larger ones: row_split_blocks()
  float* partial;      // scratch [sequences, heads, splits, head_dim + 2]; nullptr when splits == 1
  Array out;           // [rows, heads * head_dim]
};

constexpr int64_t kBlock = 32;  // positions of a cache block; equals kBlockTokens of ops/backend.h
constexpr int64_t kMaxHeadDim = 256;

constexpr int64_t kSplitBlocks = 8;  // 256 positions: two cache blocks a warp
constexpr int64_t kMostSplits = 64;  // bounds the scratch and the merge

// Parts that a row whose context is as long as the block tables are wide needs.
inline int64_t attention_splits(int64_t max_blocks) {
  const int64_t splits = (max_blocks + kSplitBlocks - 1) / kSplitBlocks;
  return splits < 1 ? 1 : splits < kMostSplits ? splits : kMostSplits;
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
// Steering of the rows that act, then the norm of every row, which reads what steering left: steer.delta and
// steer.residual are norm.delta and norm.residual, or steer.residual is absent where the site has delta alone.
struct SteerNormArgs {
  SteerArgs steer;
  NormArgs norm;  // rows: of the step
};
// Working memory of a row: h, then what a subspace adds along each direction. (Host code; a kernel spells it out.)
constexpr int64_t steer_floats(int64_t hidden) { return hidden + kSteerMaxRank; }
// Floats a row's working memory may have before `scratch` is needed.
constexpr int64_t kSteerSharedFloats = 10240;

}  // namespace chatspace::cuda
