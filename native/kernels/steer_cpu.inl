// SPDX-License-Identifier: Apache-2.0
// One row of steering: h = delta + residual in float32, the operations in order, each on the result of
// the one before, then the captures' source row. Returns h in `h`.

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

// Returns whether any bit of h changed.
static inline bool apply_steer(const SteerOp& op, float* h, float* before, int64_t n, double* change) {
  to_float_typed<ElementType::kFloat32>(h, n, before);
  switch (op.kind) {
    case SteerKind::kAdd:
      axpy(op.scale, op.vector, h, n);
      break;
    case SteerKind::kCap: {
      const float p = dot(h, op.vector, n);
      const float raised = p < op.min ? op.min : p;
      const float bounded = raised > op.max ? op.max : raised;
      if (bounded != p) axpy(bounded - p, op.vector, h, n);
      break;
    }
    case SteerKind::kAblate: {
      const float p = dot(h, op.vector, n);
      if (op.scale != 1.0f) axpy((op.scale - 1.0f) * (p - op.mean), op.vector, h, n);
      break;
    }
    case SteerKind::kReplace: {
      const Simd::V keep = Simd::set1(1.0f - op.amount), take = Simd::set1(op.amount);
      for_vectors(n, [&](int64_t i, int64_t c) {
        const Simd::V taken = Simd::mul(take, load_some(op.vector + i, c));
        // amount 1 must not let an infinity of h through as 0 * inf.
        store_some(h + i, op.amount == 1.0f ? taken : Simd::fma(keep, load_some(h + i, c), taken), c);
      });
      break;
    }
  }
  if (op.keep_norm != 0) {
    const float was = __builtin_sqrtf(dot(before, before, n));
    const float is = __builtin_sqrtf(dot(h, h, n));
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

static void steer(const SteerCall& call, const SteerRows& r, int64_t row) {
  const int32_t begin = call.row_offsets[row], end = call.row_offsets[row + 1];
  bool captured = false;
  for (int64_t i = 0; i < call.captures && !captured; ++i) captured = call.capture_rows[i] == row;
  if (begin == end && !captured) return;
  const int64_t n = call.hidden;
  const int64_t padded = (n + 15) / 16 * 16;
  float* h = thread_scratch(Scratch::kSteer, 3 * padded);
  float* residual = h + padded;
  float* before = h + 2 * padded;
  load_row(r, row, n, h, residual);
  bool changed = false;
  for (int32_t i = begin; i < end; ++i) {
    changed |= apply_steer(call.ops[call.op_index[i]], h, before, n, r.change + i);
  }
  // Operations that change nothing (scale 0, a cap inside its bounds) leave the row bit-identical: delta
  // recovered as (delta + residual) - residual would not be.
  if (changed) {
    if (r.residual == nullptr) {
      from_float(h, r.delta_type, n,
                 static_cast<char*>(r.delta) + row * r.delta_stride * element_bytes(r.delta_type));
    } else {
      // The other half of the pair stays as it is: take it from the sum.
      void* target = r.delta;
      ElementType type = r.delta_type;
      int64_t stride = r.delta_stride;
      if (r.write_residual) {
        to_float(static_cast<const char*>(r.delta) + row * r.delta_stride * element_bytes(r.delta_type), r.delta_type,
                 n, residual);
        target = r.residual;
        type = r.residual_type;
        stride = r.residual_stride;
      }
      for_vectors(n, [&](int64_t i, int64_t c) {
        store_some(before + i, Simd::sub(load_some(h + i, c), load_some(residual + i, c)), c);
      });
      from_float(before, type, n, static_cast<char*>(target) + row * stride * element_bytes(type));
    }
  }
  if (!captured) return;
  for (int64_t i = 0; i < call.captures; ++i) {
    if (call.capture_rows[i] == row) to_float_typed<ElementType::kFloat32>(h, n, call.capture_out[i]);
  }
}
