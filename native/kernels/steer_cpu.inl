// SPDX-License-Identifier: Apache-2.0
// One row of steering: h = delta + residual in float32, the operations in order, each on the result of
// the one before, then the captures and readings of the row.

static inline void load_row(const SteerRows& r, int64_t row, int64_t n, float* h, float* residual) {
  const auto at = [](const void* base, ElementType type, int64_t elements) {
    return static_cast<const char*>(base) + elements * element_bytes(type);
  };
  to_float(at(r.delta, r.delta_type, row * r.delta_stride), r.delta_type, n, h);
  if (r.residual != nullptr) {
    to_float(at(r.residual, r.residual_type, row * r.residual_stride), r.residual_type, n, residual);
    for_vectors(n, [&](int64_t i, int64_t c) {
      store_some(h + i, Simd::add(load_some(h + i, c), load_some(residual + i, c)), c);
    });
  }
}

// h := h + f * v
static inline void axpy(float f, const float* v, float* h, int64_t n) {
  const Simd::V s = Simd::set1(f);
  for_vectors(n, [&](int64_t i, int64_t c) {
    store_some(h + i, Simd::fma(s, load_some(v + i, c), load_some(h + i, c)), c);
  });
}

static inline float norm_of(const float* h, int64_t n) { return __builtin_sqrtf(dot(h, h, n)); }

static inline float read_row(const float* h, const float* direction, bool cosine, int64_t n) {
  const float p = dot(h, direction, n);
  if (!cosine) return p;
  const float norm = norm_of(h, n);
  return norm == 0.0f ? 0.0f : p / norm;
}

// Never open for NaN.
static inline bool gate_open(const SteerOp& op, const SteerEntry& entry, const float* h, int64_t n) {
  if (entry.gate == nullptr && op.gate == nullptr) return true;
  const float value = entry.gate != nullptr ? *entry.gate : read_row(h, op.gate, op.gate_cosine != 0, n);
  return op.gate_above != 0 ? value > op.threshold : value < op.threshold;
}

// With o = h - p u, the part beside the axis: h' = (p cos a + |o| sin a) u + (cos a - (p / |o|) sin a) o.
static inline void rotate_row(float angle, const float* u, float* h, int64_t n) {
  if (angle == 0.0f) return;
  const float p = dot(h, u, n);
  const Simd::V along = Simd::set1(-p);
  Simd::V squares = Simd::zero();
  for_vectors(n, [&](int64_t i, int64_t c) {
    const Simd::V o = Simd::fma(along, load_some(u + i, c), load_some(h + i, c));
    squares = Simd::fma(o, o, squares);
  });
  const float beside = __builtin_sqrtf(Simd::sum(squares));
  if (!(beside > kSteerParallel * norm_of(h, n))) return;
  const float sine = __builtin_sinf(angle), cosine = __builtin_cosf(angle);
  const Simd::V on = Simd::set1(p * cosine + beside * sine);
  const Simd::V off = Simd::set1(cosine - p / beside * sine);
  for_vectors(n, [&](int64_t i, int64_t c) {
    const Simd::V axis = load_some(u + i, c);
    const Simd::V o = Simd::fma(along, axis, load_some(h + i, c));
    store_some(h + i, Simd::fma(on, axis, Simd::mul(off, o)), c);
  });
}

// Every projection is of h as it was, so the order of the directions does not matter.
static inline void subspace_row(const SteerOp& op, float strength, float* h, int64_t n) {
  float push[kSteerMaxRank];
  const float *pushes = op.second, *keeps = op.second + op.rank, *means = op.second + 2 * op.rank;
  for (int32_t r = 0; r < op.rank; ++r) {
    const float p = dot(h, op.vector + r * n, n);
    push[r] = strength * (pushes[r] + (keeps[r] - 1.0f) * (p - means[r]));
  }
  for (int32_t r = 0; r < op.rank; ++r) {
    if (push[r] != 0.0f) axpy(push[r], op.vector + r * n, h, n);
  }
}

// Returns whether any bit of h changed.
static inline bool apply_steer(const SteerOp& op, float strength, float* h, float* before, int64_t n,
                               double* change) {
  to_float_typed<ElementType::kFloat32>(h, n, before);
  switch (op.kind) {
    case SteerKind::kAdd:
      axpy(op.scale * strength, op.vector, h, n);
      break;
    case SteerKind::kCap: {
      const float p = dot(h, op.vector, n);
      const float raised = p < op.min ? op.min : p;
      const float bounded = raised > op.max ? op.max : raised;
      if (bounded != p) axpy(strength * (bounded - p), op.vector, h, n);
      break;
    }
    case SteerKind::kAblate: {
      const float p = dot(h, op.vector, n);
      if (op.scale != 1.0f) axpy(strength * (op.scale - 1.0f) * (p - op.mean), op.vector, h, n);
      break;
    }
    case SteerKind::kReplace: {
      const float amount = op.amount * strength;
      const Simd::V keep = Simd::set1(1.0f - amount), take = Simd::set1(amount);
      for_vectors(n, [&](int64_t i, int64_t c) {
        const Simd::V taken = Simd::mul(take, load_some(op.vector + i, c));
        // amount 1 must not let an infinity of h through as 0 * inf.
        store_some(h + i, amount == 1.0f ? taken : Simd::fma(keep, load_some(h + i, c), taken), c);
      });
      break;
    }
    case SteerKind::kRotate:
      rotate_row(op.scale * strength, op.vector, h, n);
      break;
    case SteerKind::kAddNorm: {
      const float wanted = op.scale * strength;
      const float bounded = wanted > op.max ? op.max : wanted < -op.max ? -op.max : wanted;
      axpy(bounded * norm_of(h, n), op.vector, h, n);
      break;
    }
    case SteerKind::kSwap: {
      const float moved = strength * dot(h, op.vector, n);
      axpy(-moved, op.vector, h, n);
      axpy(moved, op.second, h, n);
      break;
    }
    case SteerKind::kSubspace:
      subspace_row(op, strength, h, n);
      break;
  }
  if (op.keep_norm != 0) {
    const float was = norm_of(before, n);
    const float is = norm_of(h, n);
    if (is > 0.0f && was != is) {
      const Simd::V f = Simd::set1(was / is);
      for_vectors(n, [&](int64_t i, int64_t c) { store_some(h + i, Simd::mul(load_some(h + i, c), f), c); });
    }
  }
  *change = 0.0;
  if (std::memcmp(before, h, static_cast<size_t>(n) * sizeof(float)) == 0) return false;
  Simd::V squares = Simd::zero();
  for_vectors(n, [&](int64_t i, int64_t c) {
    const Simd::V d = Simd::sub(load_some(h + i, c), load_some(before + i, c));
    squares = Simd::fma(d, d, squares);
  });
  *change = static_cast<double>(__builtin_sqrtf(Simd::sum(squares)));
  return true;
}

// The other half of a pair stays as it is: the new half is the sum less that.
static inline void store_row(const SteerRows& r, int64_t row, int64_t n, const float* h, float* residual,
                             float* spare) {
  void* target = r.delta;
  ElementType type = r.delta_type;
  int64_t stride = r.delta_stride;
  if (r.residual == nullptr) {
    from_float(h, type, n, static_cast<char*>(target) + row * stride * element_bytes(type));
    return;
  }
  if (r.write_residual) {
    to_float(static_cast<const char*>(r.delta) + row * r.delta_stride * element_bytes(r.delta_type), r.delta_type, n,
             residual);
    target = r.residual;
    type = r.residual_type;
    stride = r.residual_stride;
  }
  for_vectors(n, [&](int64_t i, int64_t c) {
    store_some(spare + i, Simd::sub(load_some(h + i, c), load_some(residual + i, c)), c);
  });
  from_float(spare, type, n, static_cast<char*>(target) + row * stride * element_bytes(type));
}

static void steer(const SteerCall& call, const SteerRows& r, const SteerRow& work) {
  const int64_t n = call.hidden;
  const int64_t padded = (n + 15) / 16 * 16;
  float* h = thread_scratch(Scratch::kSteer, 3 * padded);
  float* residual = h + padded;
  float* before = h + 2 * padded;
  load_row(r, work.row, n, h, residual);
  bool changed = false;
  for (int32_t i = work.entry_begin; i < work.entry_end; ++i) {
    const SteerEntry& entry = call.entries[i];
    const SteerOp& op = call.ops[entry.op];
    if (gate_open(op, entry, h, n)) {
      changed |= apply_steer(op, entry.strength, h, before, n, r.change + i);
    } else {
      r.change[i] = -1.0;
    }
  }
  // Operations that change nothing (scale 0, a cap inside its bounds) leave the row bit-identical: delta
  // recovered as (delta + residual) - residual would not be.
  if (changed) store_row(r, work.row, n, h, residual, before);
  for (int32_t i = work.capture_begin; i < work.capture_end; ++i) {
    to_float_typed<ElementType::kFloat32>(h, n, call.captures[i]);
  }
  for (int32_t i = work.reading_begin; i < work.reading_end; ++i) {
    const SteerReading& reading = call.readings[i];
    for (int32_t k = 0; k < reading.count; ++k) {
      reading.out[k] = read_row(h, reading.directions + k * n, reading.cosine != 0, n);
    }
  }
}
