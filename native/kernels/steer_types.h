// SPDX-License-Identifier: Apache-2.0
// The flat tables a steering kernel reads: row -> span of operation indices -> operation.
// Plain data without torch or CUDA headers, shared by the CPU kernel, the CUDA kernel and the code
// that fills them. Pointers are of the device the kernel runs on.
#pragma once

#include <cstdint>

namespace chatspace {

enum class SteerKind : int32_t {
  kAdd = 0,      // h + scale * vector
  kCap = 1,      // h + (clamp(h.u, min, max) - h.u) u
  kAblate = 2,   // h + (scale - 1) (h.u - mean) u
  kReplace = 3,  // (1 - amount) h + amount * vector
};

// One operation at one site. `vector` is [hidden] float32: as given for add and replace, divided by
// its norm for cap and ablate (done once, when the program is compiled, never in the kernel).
struct SteerOp {
  const float* vector;
  SteerKind kind;
  float scale;
  float min;
  float max;
  float mean;
  float amount;
  int32_t keep_norm;  // afterwards h * |h before| / |h|
  int32_t counter;    // index into SteerCall::counters
};

// Proof that an operation acted, counted where the arithmetic happens.
struct SteerCounter {
  int64_t rows;         // rows the operation was applied to
  double change_norm;   // sum over those rows of |h after - h before|
};

struct SteerCall {
  int64_t rows;    // rows of this step
  int64_t hidden;  // width of a row
  // Row r takes operations op_index[row_offsets[r]] .. op_index[row_offsets[r + 1] - 1], in order.
  const int32_t* row_offsets;  // [rows + 1]
  const int32_t* op_index;
  const SteerOp* ops;
  SteerCounter* counters;
  // Rows to read after the operations: h of row capture_rows[i] goes to capture_out[i].
  int64_t captures;
  const int32_t* capture_rows;
  float* const* capture_out;  // each [hidden] float32
};

}  // namespace chatspace
