// SPDX-License-Identifier: Apache-2.0
// The single-thread kernels of the CPU, one table an instruction set, chosen once at run time.
//
// Batch invariance. Every output element is computed by one fixed sequence of float32 operations that
// depends on its own row, the weights and (attention) its own position alone: never on how many rows
// the step has, on the tile the row falls into, or on the number of threads. A row alone equals the same
// row in any batch, bit for bit. Different instruction sets may differ from each other by rounding.
#pragma once

#include <cstdint>

#include "kernels/element.h"
#include "kernels/steer_types.h"

namespace chatspace {

enum class Isa : int32_t { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Vnni = 3, kAmx = 4 };
enum class Activation : int32_t { kSilu = 0, kGeluTanh = 1, kGelu = 2, kRelu = 3 };

// out[t, n] = sum_k x[t, k] * weight[n, k] (+ bias[n]).
struct LinearBlock {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t k;
  const void* weight;  // first row of the block
  ElementType type;
  int64_t n;
  const float* bias;  // first of the block, or null
  float* out;
  int64_t out_stride;
  const void* x_int16 = nullptr;  // x as quantize_int16 writes it, rows adjacent: weights in planes read this alone
};

// Writes norm(q) and norm(k) with the rotary embedding, for one row.
struct HeadsToRotate {
  const float* in;         // [heads, head_dim]
  int64_t heads;
  int64_t head_dim;
  const float* norm;       // [head_dim] or null
  float eps;
  const float* cos;        // [rotary_dim / 2]
  const float* sin;
  int64_t rotary_dim;
  bool interleaved;
  float* out;              // [heads, head_dim]
};

// Positions of a split: partial results of one split are merged in order, always, so that cutting a
// long context into parallel pieces changes nothing.
constexpr int64_t kAttentionSplit = 256;
constexpr int64_t kAttentionBlock = 32;

// Attention of adjacent rows of one sequence over one kv head, for splits [split_begin, split_end).
struct AttentionTile {
  const float* q;          // row r, head g: q + r * q_stride + g * head_dim, normed and rotated
  int64_t q_stride;
  int64_t rows;
  int64_t group;           // query heads of this kv head
  int64_t head_dim;
  int64_t first_position;  // of row 0; row r is at first_position + r
  const int32_t* blocks;   // block table of the sequence
  const void* keys;        // of this kv head in block 0
  const void* values;
  int64_t block_stride;    // elements from block to block
  ElementType type;
  float scale;
  float softcap;
  int64_t window;
  int64_t split_begin;
  int64_t split_end;
  float* out;              // row r, head g: out + r * out_stride + g * head_dim
  int64_t out_stride;
  float* partials;         // null = merge into out; else [splits, rows * group, head_dim + 2] raw
};

// Where steering reads and writes. `element` of both may differ.
struct SteerRows {
  void* delta;
  ElementType delta_type;
  int64_t delta_stride;
  void* residual;  // null: h = delta
  ElementType residual_type;
  int64_t residual_stride;
  bool write_residual;  // the change goes to the residual
  double* change;       // [entries], |h' - h| of each; -1 where a gate stayed shut
};

struct CpuKernels {
  Isa isa;
  const char* name;
  // Rows of a tile: drivers cut work into multiples of these.
  int64_t linear_tile_n;
  void (*linear)(const LinearBlock& block);
  // One row of k floats (whole blocks) in int16_row_bytes(k) bytes, see int16_rows.h.
  void (*quantize_int16)(const float* x, int64_t k, void* row);
  // gate = act(gate) * up, or act(gate) when up is null.
  void (*activate)(Activation act, float* gate, int64_t gate_stride, const float* up, int64_t up_stride, int64_t rows,
                   int64_t n);
  // sum = delta + residual (residual null: sum is not written), out = norm.
  void (*rms_norm)(const float* delta, const float* residual, float* sum, const void* weight, ElementType type,
                   float eps, int64_t n, float* out);
  void (*layer_norm)(const float* delta, const float* residual, float* sum, const void* weight, const void* bias,
                     ElementType type, float eps, int64_t n, float* out);
  void (*to_float)(const void* in, ElementType type, int64_t n, float* out);
  void (*from_float)(const float* in, ElementType type, int64_t n, void* out);
  void (*rotate)(const HeadsToRotate& heads);
  void (*attention)(const AttentionTile& tile);
  // Merges [splits, rows, head_dim + 2] of one query (stride between splits given) into out.
  void (*merge)(const float* partials, int64_t split_stride, int64_t splits, int64_t head_dim, float* out);
  void (*steer)(const SteerCall& call, const SteerRows& rows, const SteerRow& row);
  float (*read)(const float* data, int64_t n);
  void (*exp)(const float* in, int64_t n, float* out);
  // First index of the largest value, 0 when there is none. NaN never wins.
  int64_t (*argmax)(const float* data, int64_t n);
};

// The best table this processor runs; CHATSPACE_ISA=generic|avx2|avx512|avx512vnni (scalar = generic) lowers it,
// amx raises it to the matrix unit.
const CpuKernels& cpu_kernels();
// null when the build or the processor lacks it.
const CpuKernels* cpu_kernels_for(Isa isa);
// For tests: overrides the choice in this process.
void use_cpu_kernels(const CpuKernels& kernels);

}  // namespace chatspace
