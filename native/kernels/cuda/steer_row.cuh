// SPDX-License-Identifier: Apache-2.0
// Body of the steering kernel: one row with something to do a block. h stays in float32 through all
// operations of the site and is rounded once, when it is written back. Thread t owns elements
// t, t + size, ...; only sums cross threads. Every branch is the same for all threads of the block.
#pragma once

#include <cmath>

#include "kernels/cuda/site_tables.h"
#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

// What an operation does to a row once its projections are known:
// h' = keep (h - center v) + push v + push_second w + sum_r along[r] b_r.
struct SteerMove {
  const float* vector;
  const float* second;  // nullptr = none
  float keep;
  float center;
  float push;
  float push_second;
  const float* along;  // [rank], of a subspace
  int32_t rank;
};

CHATSPACE_FN float moved_to(const SteerMove& move, float h, int64_t i, int64_t hidden) {
  if (move.rank > 0) {
    float value = h;
    for (int32_t r = 0; r < move.rank; ++r) value += move.along[r] * move.vector[r * hidden + i];
    return value;
  }
  const float v = move.vector[i];
  // A full replacement takes nothing of h, not even its infinities.
  if (move.keep == 0.0f && move.center == 0.0f) return move.push * v;
  float value = move.keep * (h - move.center * v) + move.push * v;
  if (move.second != nullptr) value += move.push_second * move.second[i];
  return value;
}

template <class Block>
CHATSPACE_FN float steer_dot(Block& block, const float* h, const float* v, int64_t hidden) {
  float part = 0.0f;
  for (int64_t i = block.rank(); i < hidden; i += block.size()) part += h[i] * v[i];
  return block.sum(part);
}

template <class Block>
CHATSPACE_FN float steer_read(Block& block, const float* h, const float* direction, bool cosine, int64_t hidden) {
  const float projection = steer_dot(block, h, direction, hidden);
  if (!cosine) return projection;
  const float norm = sqrtf(steer_dot(block, h, h, hidden));
  return norm == 0.0f ? 0.0f : projection / norm;
}

// With o = h - p u, the part beside the axis: h' = (p cos a + |o| sin a) u + (cos a - (p / |o|) sin a) o.
template <class Block>
CHATSPACE_FN void plan_rotation(Block& block, float angle, const float* h, int64_t hidden, SteerMove& move) {
  const float projection = steer_dot(block, h, move.vector, hidden);
  float part = 0.0f;
  for (int64_t i = block.rank(); i < hidden; i += block.size()) {
    const float o = h[i] - projection * move.vector[i];
    part += o * o;
  }
  const float beside = sqrtf(block.sum(part));
  const float norm = sqrtf(steer_dot(block, h, h, hidden));
  if (angle == 0.0f || !(beside > kSteerParallel * norm)) return;
  const float sine = sinf(angle);
  const float cosine = cosf(angle);
  move.center = projection;
  move.keep = cosine - projection / beside * sine;
  move.push = projection * cosine + beside * sine;
}

// along: [rank] working memory of the block.
template <class Block>
CHATSPACE_FN void plan_subspace(Block& block, const SteerOp& op, float strength, const float* h, int64_t hidden,
                                float* along, SteerMove& move) {
  const float* pushes = op.second;
  const float* keeps = op.second + op.rank;
  const float* means = op.second + 2 * op.rank;
  for (int32_t r = 0; r < op.rank; ++r) {
    const float projection = steer_dot(block, h, op.vector + r * hidden, hidden);
    if (block.rank() == 0) along[r] = strength * (pushes[r] + (keeps[r] - 1.0f) * (projection - means[r]));
  }
  block.sync();
  move.along = along;
  move.rank = op.rank;
}

// The change `op` makes to the row as it stands; keep 1 and nothing pushed when it makes none.
template <class Block>
CHATSPACE_FN SteerMove plan_move(Block& block, const SteerOp& op, float strength, const float* h, int64_t hidden,
                                 float* along) {
  SteerMove move{op.vector, nullptr, 1.0f, 0.0f, 0.0f, 0.0f, nullptr, 0};
  switch (op.kind) {
    case SteerKind::kAdd:
      move.push = op.scale * strength;
      break;
    case SteerKind::kReplace:
      move.push = op.amount * strength;
      move.keep = 1.0f - move.push;
      break;
    case SteerKind::kCap: {
      const float projection = steer_dot(block, h, op.vector, hidden);
      move.push = strength * (fminf(fmaxf(projection, op.min), op.max) - projection);
      // fmaxf drops a NaN; a poisoned row must stay poisoned.
      if (projection != projection) move.push = projection;
      break;
    }
    case SteerKind::kAblate:
      move.push = strength * (op.scale - 1.0f) * (steer_dot(block, h, op.vector, hidden) - op.mean);
      break;
    case SteerKind::kRotate:
      plan_rotation(block, op.scale * strength, h, hidden, move);
      break;
    case SteerKind::kAddNorm:
      move.push = fminf(fmaxf(op.scale * strength, -op.max), op.max) * sqrtf(steer_dot(block, h, h, hidden));
      break;
    case SteerKind::kSwap:
      move.second = op.second;
      move.push_second = strength * steer_dot(block, h, op.vector, hidden);
      move.push = -move.push_second;
      break;
    case SteerKind::kSubspace:
      plan_subspace(block, op, strength, h, hidden, along, move);
      break;
  }
  return move;
}

// Applies one operation; returns whether it moved the row.
template <class Block>
CHATSPACE_FN bool apply_operation(Block& block, const SteerOp& op, float strength, float* h, int64_t hidden,
                                  float* along, SteerCounter& counter) {
  const SteerMove move = plan_move(block, op, strength, h, hidden, along);
  const bool acts = move.keep != 1.0f || move.push != 0.0f || move.push_second != 0.0f || move.rank > 0;
  float rescale = 1.0f;
  if (acts && op.keep_norm != 0) {
    float before = 0.0f;
    float after = 0.0f;
    for (int64_t i = block.rank(); i < hidden; i += block.size()) {
      const float moved = moved_to(move, h[i], i, hidden);
      before += h[i] * h[i];
      after += moved * moved;
    }
    before = block.sum(before);
    after = block.sum(after);
    // A row moved onto zero has no direction left to rescale.
    if (after > 0.0f) rescale = sqrtf(before) / sqrtf(after);
  }
  float change = 0.0f;
  if (acts) {
    for (int64_t i = block.rank(); i < hidden; i += block.size()) {
      float moved = moved_to(move, h[i], i, hidden);
      if (op.keep_norm != 0) moved *= rescale;
      const float step = moved - h[i];
      change += step * step;
      h[i] = moved;
    }
    change = block.sum(change);
  }
  if (block.rank() == 0) block.count(counter, sqrt(static_cast<double>(change)));
  return acts;
}

// h: [steer_floats(hidden)] float32 working memory of this block.
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
  for (int32_t at = work.entry_begin; at < work.entry_end; ++at) {
    const SteerEntry& entry = args.entries[at];
    const SteerOp& op = args.ops[entry.op];
    if (entry.gate != nullptr || op.gate != nullptr) {
      const float value =
          entry.gate != nullptr ? *entry.gate : steer_read(block, h, op.gate, op.gate_cosine != 0, hidden);
      // Never open for NaN.
      if (!(op.gate_above != 0 ? value > op.threshold : value < op.threshold)) continue;
    }
    if (apply_operation(block, op, entry.strength, h, hidden, h + hidden, args.counters[op.counter])) changed = true;
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
  for (int32_t at = work.reading_begin; at < work.reading_end; ++at) {
    const SteerReading& reading = args.readings[at];
    for (int32_t k = 0; k < reading.count; ++k) {
      const float value = steer_read(block, h, reading.directions + k * hidden, reading.cosine != 0, hidden);
      if (block.rank() == 0) reading.out[k] = value;
    }
  }
}

// What a site of a recorded step has to do, as the tables say it now.
CHATSPACE_FN SteerArgs slot_work(const SlotArgs& args, const SlotEntry& entry) {
  SteerArgs site{};
  site.rows = reinterpret_cast<const SteerRow*>(args.tables + entry.rows);
  site.entries = reinterpret_cast<const SteerEntry*>(args.tables + entry.entries);
  site.ops = reinterpret_cast<const SteerOp*>(args.tables + entry.ops);
  site.captures = reinterpret_cast<float* const*>(args.tables + entry.captures);
  site.readings = reinterpret_cast<const SteerReading*>(args.tables + entry.readings);
  site.counters = reinterpret_cast<SteerCounter*>(args.tables + entry.counters);
  site.active = entry.active;
  site.hidden = args.hidden;
  site.delta = args.delta;
  site.residual = args.residual;
  site.to_residual = args.to_residual;
  return site;
}

// Block `index` of a site of a recorded step; the tables say whether it has a row. The entry tells afterwards
// that the step passed the site, whatever there was to do.
template <class Block>
CHATSPACE_FN void steer_slot_row(Block& block, const SlotArgs& args, int64_t index, float* h) {
  SlotEntry& entry = reinterpret_cast<SlotEntry*>(args.tables)[args.slot];
  if (index == 0 && block.rank() == 0) entry.visited = 1;
  if (index >= entry.active) return;
  const SteerArgs site = slot_work(args, entry);
  steer_row(block, site, site.rows[index], h);
}

}  // namespace chatspace::cuda
