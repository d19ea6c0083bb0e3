// SPDX-License-Identifier: Apache-2.0
// The kernels as the operators see them: plain structs in, one launch (or two) on a stream out. No
// torch headers, so that nvcc compiles in seconds. Every pointer is device memory, every matrix is
// row-major and dense unless a stride is given, every index is 64-bit. A function returns what
// cudaGetLastError() said after its launches; it never waits for the device.
#pragma once

#include <cuda_runtime_api.h>

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
cudaError_t embed(const EmbedArgs& args, cudaStream_t stream);

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
cudaError_t rms_norm(const NormArgs& args, cudaStream_t stream);
cudaError_t layer_norm(const NormArgs& args, cudaStream_t stream);

// out = act(gate) * up, or act(gate) where `up` is absent. out may be gate.
struct ActivationArgs {
  ConstArray gate;
  ConstArray up;  // data nullptr = none; otherwise of gate's dtype
  Array out;      // of gate's dtype
  int64_t elements;
  Activation act;
};
cudaError_t activate(const ActivationArgs& args, cudaStream_t stream);

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
// Depends on the widest context alone, never on the batch, so that a row is summed in the same order
// alone and in any company.
AttentionSplits attention_splits(int64_t max_blocks);

// Norm and rotary embedding of q and k, k and v into the cache.
cudaError_t rotary_and_cache(const AttentionArgs& args, cudaStream_t stream);
// Rows that are their sequence's only row of the step.
cudaError_t attend_single_rows(const AttentionArgs& args, cudaStream_t stream);
// Rows of sequences that have several rows in the step (prompt chunks).
cudaError_t attend_chunks(const AttentionArgs& args, cudaStream_t stream);

// A row that has operations or captures; rows without are not in the table.
struct SteerRow {
  int64_t row;
  int32_t op_begin;  // into op_index
  int32_t op_end;
  int32_t capture_begin;  // into captures
  int32_t capture_end;
};

struct SteerArgs {
  const SteerRow* rows;
  const int32_t* op_index;
  const SteerOp* ops;  // SteerOp::counter indexes `counters`
  float* const* captures;
  SteerCounter* counters;
  int64_t active;  // entries of rows
  int64_t hidden;
  Array delta;         // [rows of the step, hidden]
  Array residual;      // data nullptr = none
  bool to_residual;    // write the change to the residual instead of delta
  float* scratch;      // [active, hidden] when a row does not fit shared memory, else nullptr
};
// Floats a row may have before `scratch` is needed.
constexpr int64_t kSteerSharedFloats = 10240;
cudaError_t steer(const SteerArgs& args, cudaStream_t stream);

}  // namespace chatspace::cuda
