// SPDX-License-Identifier: Apache-2.0
// The flat tables a steering kernel reads. Only rows that have something to do are listed; each names its
// spans of operations to apply, places to copy the row to, and readings to take. Plain data without torch
// or CUDA headers, shared by the CPU kernel, the CUDA kernel and the code that fills them. Pointers are of
// the device the kernel runs on.
#pragma once

#include <cstdint>

namespace chatspace {

// h: the row; v: `vector` as given; u: `vector`, a unit vector; f: the strength of the entry (1 unless a
// schedule says otherwise), which multiplies the change an operation makes.
enum class SteerKind : int32_t {
  kAdd = 0,       // h + f scale v
  kCap = 1,       // h + f (clamp(h.u, min, max) - h.u) u
  kAblate = 2,    // h + f (scale - 1) (h.u - mean) u
  kReplace = 3,   // (1 - f amount) h + f amount v
  kRotate = 4,    // h turned by f scale radians towards u in the plane of h and u; |h| stays
  kAddNorm = 5,   // h + clamp(f scale, -max, max) |h| u
  kSwap = 6,      // h + f (h.u) (w - u), w = `second`, a unit vector
  kSubspace = 7,  // h + f sum_r (push_r + (keep_r - 1) (h.b_r - mean_r)) b_r, rows b_r of `vector` orthonormal
};

// Directions a subspace may have.
constexpr int32_t kSteerMaxRank = 64;

// A row within this fraction of |h| of the axis of a rotation has no plane to be turned in: what is left
// beside the axis is rounding, and its direction means nothing.
constexpr float kSteerParallel = 1e-6f;

// One operation at one site. Directions are normalised once, when the program is compiled.
struct SteerOp {
  const float* vector;  // [hidden]; of a subspace [rank, hidden]
  const float* second;  // swap: [hidden]; subspace: [3, rank] push, keep, mean; else null
  const float* gate;    // [hidden] unit vector: a gate that reads the row itself, as it stands; null = none
  SteerKind kind;
  float scale;
  float min;
  float max;
  float mean;
  float amount;
  float threshold;      // of the gate, wherever it reads
  int32_t gate_above;   // the gate is open above the threshold, else below
  int32_t gate_cosine;  // `gate` is read as (h.c) / |h|
  int32_t keep_norm;    // afterwards h * |h before| / |h|
  int32_t rank;         // of a subspace
  int32_t counter;      // index into SteerCall::counters
};

// An operation on one row.
struct SteerEntry {
  int32_t op;
  float strength;
  const float* gate;  // a reading that another site made earlier in this step; null = none
};

// h.direction for `count` directions, of h after the site's operations; divided by |h| for a cosine
// (0 for a row of zeros).
struct SteerReading {
  const float* directions;  // [count, hidden]
  float* out;               // [count]
  int32_t count;
  int32_t cosine;
};

// Proof that an operation acted, counted where the arithmetic happens. A gate that stays shut does not count.
struct SteerCounter {
  int64_t rows;         // rows the operation was applied to
  double change_norm;   // sum over those rows of |h after - h before|
};

// A row with something to do: half-open spans into the tables of the call.
struct SteerRow {
  int32_t row;
  int32_t entry_begin, entry_end;
  int32_t capture_begin, capture_end;
  int32_t reading_begin, reading_end;
};

struct SteerCall {
  int64_t rows;    // rows of this step
  int64_t hidden;  // width of a row
  int64_t active;  // rows listed, ascending, each once
  const SteerRow* active_rows;
  int64_t entry_count;
  const SteerEntry* entries;
  int64_t op_count;
  const SteerOp* ops;
  SteerCounter* counters;
  int64_t capture_count;
  float* const* captures;  // each [hidden]: takes the row after the operations
  int64_t reading_count;
  const SteerReading* readings;
};

// One site's work in a step.
struct SiteWork {
  int64_t slot;  // of the site, 0 <= slot < slots
  SteerCall call;
};

}  // namespace chatspace
