// SPDX-License-Identifier: Apache-2.0
// Body of the steering kernel: one row with operations or captures a block. h stays in float32 through
// all operations of the site and is rounded once, when it is written back. Thread t owns elements
// t, t + size, ...; only sums cross threads. Every branch is the same for all threads of the block.
#pragma once

#include <cmath>

#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

// keep * h + push * vector; a full replacement takes nothing of h, not even its infinities.
CHATSPACE_FN float moved_to(float keep, float h, float push, float vector) {
  return keep == 0.0f ? push * vector : keep * h + push * vector;
}

// h: [hidden] float32 working memory of this block.
template <class Block>
CHATSPACE_FN void steer_row(Block& block, const SteerArgs& args, const SteerRow& work, float* h) {
  const int64_t hidden = args.hidden;
  const int64_t base = work.row * hidden;
  const bool paired = args.residual.data != nullptr;
  for (int64_t i = block.rank(); i < hidden; i += block.size()) {
    const float value = load(args.delta, base + i);
    h[i] = paired ? value + load(args.residual, base + i) : value;
  }

  bool changed = false;
  for (int32_t at = work.op_begin; at < work.op_end; ++at) {
    const SteerOp& op = args.ops[args.op_index[at]];
    const float* vector = op.vector;
    // Every operation is h' = keep * h + push * vector.
    float keep = 1.0f;
    float push = 0.0f;
    switch (op.kind) {
      case SteerKind::kAdd:
        push = op.scale;
        break;
      case SteerKind::kReplace:
        keep = 1.0f - op.amount;
        push = op.amount;
        break;
      default: {
        float part = 0.0f;
        for (int64_t i = block.rank(); i < hidden; i += block.size()) part += h[i] * vector[i];
        const float projection = block.sum(part);
        push = op.kind == SteerKind::kCap ? fminf(fmaxf(projection, op.min), op.max) - projection
                                          : (op.scale - 1.0f) * (projection - op.mean);
        // fmaxf drops a NaN; a poisoned row must stay poisoned.
        if (projection != projection) push = projection;
      }
    }

    float rescale = 1.0f;
    if (op.keep_norm != 0) {
      float before = 0.0f;
      float after = 0.0f;
      for (int64_t i = block.rank(); i < hidden; i += block.size()) {
        const float moved = moved_to(keep, h[i], push, vector[i]);
        before += h[i] * h[i];
        after += moved * moved;
      }
      before = block.sum(before);
      after = block.sum(after);
      // A row moved onto zero has no direction left to rescale.
      if (after > 0.0f) rescale = sqrtf(before) / sqrtf(after);
    }

    const bool acts = keep != 1.0f || push != 0.0f;
    float change = 0.0f;
    if (acts) {
      changed = true;
      for (int64_t i = block.rank(); i < hidden; i += block.size()) {
        float moved = moved_to(keep, h[i], push, vector[i]);
        if (op.keep_norm != 0) moved *= rescale;
        const float step = moved - h[i];
        change += step * step;
        h[i] = moved;
      }
      change = block.sum(change);
    }
    if (block.rank() == 0) block.count(args.counters[op.counter], sqrt(static_cast<double>(change)));
  }

  // A row that no operation moved keeps its bits: (delta + residual) - residual is not always delta.
  if (changed) {
    for (int64_t i = block.rank(); i < hidden; i += block.size()) {
      if (args.to_residual) {
        store(args.residual, base + i, h[i] - load(args.delta, base + i));
      } else {
        store(args.delta, base + i, paired ? h[i] - load(args.residual, base + i) : h[i]);
      }
    }
  }
  for (int32_t at = work.capture_begin; at < work.capture_end; ++at) {
    float* out = args.captures[at];
    for (int64_t i = block.rank(); i < hidden; i += block.size()) out[i] = h[i];
  }
}

}  // namespace chatspace::cuda
