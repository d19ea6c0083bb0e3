// SPDX-License-Identifier: Apache-2.0
// Steering maths: every operation against float64, order, repeats, idle rows, captures, counters.
#include <cmath>
#include <limits>

#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// A step's tables, kept together.
struct Program {
  std::vector<SteerOp> ops;
  std::vector<SteerCounter> counters;
  std::vector<int32_t> offsets{0}, index, capture_rows;
  std::vector<at::Tensor> captured;
  std::vector<float*> capture_out;

  void row(const std::vector<int32_t>& entries) {
    index.insert(index.end(), entries.begin(), entries.end());
    offsets.push_back(static_cast<int32_t>(index.size()));
  }
  void capture(int32_t row, int64_t hidden) {
    capture_rows.push_back(row);
    captured.push_back(at::zeros({hidden}));
    capture_out.push_back(captured.back().mutable_data_ptr<float>());
  }
  SteerCall call(int64_t hidden) {
    counters.assign(ops.size(), {0, 0.0});
    for (size_t i = 0; i < ops.size(); ++i) ops[i].counter = static_cast<int32_t>(i);
    return {static_cast<int64_t>(offsets.size()) - 1, hidden, offsets.data(), index.data(), ops.data(),
            counters.data(), static_cast<int64_t>(capture_rows.size()), capture_rows.data(), capture_out.data()};
  }
};

SteerOp op(SteerKind kind, const at::Tensor& v, float scale = 1, float min = -kInf, float max = kInf, float mean = 0,
           float amount = 1, bool keep_norm = false) {
  return {v.const_data_ptr<float>(), kind, scale, min, max, mean, amount, keep_norm, 0};
}

at::Tensor exact(const SteerOp& o, const at::Tensor& vector, const at::Tensor& h) {
  const at::Tensor v = vector.to(at::kDouble);
  const double p = h.dot(v).item<double>();
  at::Tensor out;
  switch (o.kind) {
    case SteerKind::kAdd:
      out = h + static_cast<double>(o.scale) * v;
      break;
    case SteerKind::kCap:
      out = h + (std::min<double>(std::max<double>(p, o.min), o.max) - p) * v;
      break;
    case SteerKind::kAblate:
      out = h + (static_cast<double>(o.scale) - 1) * (p - static_cast<double>(o.mean)) * v;
      break;
    case SteerKind::kReplace:
      out = (1 - static_cast<double>(o.amount)) * h + static_cast<double>(o.amount) * v;
      break;
  }
  return o.keep_norm != 0 ? out * (h.norm() / out.norm()) : out;
}

}  // namespace

TEST(steering_matches_float64_in_order_and_counts_rows) {
  at::manual_seed(8);
  for_each_isa([](const CpuKernels& kernels) {
    for (const int64_t hidden : {5, 16, 100, 576}) {
      const at::Tensor v = at::randn({hidden}), raw = at::randn({hidden});
      const at::Tensor u = raw / raw.norm();
      Program p;
      const at::Tensor vectors[] = {v, u, u, v, v, u};
      p.ops = {op(SteerKind::kAdd, v, -2.5f), op(SteerKind::kCap, u, 1, -0.2f, 0.1f),
               op(SteerKind::kAblate, u, 0.25f, -kInf, kInf, 0.7f), op(SteerKind::kReplace, v, 1, -kInf, kInf, 0, 0.3f),
               op(SteerKind::kAdd, v, 1.5f, -kInf, kInf, 0, 1, true), op(SteerKind::kAblate, u, 0)};
      const std::vector<std::vector<int32_t>> rows = {{0}, {}, {1}, {2}, {3}, {4}, {5, 0, 0, 4, 1, 3, 2}, {}, {2, 1, 3, 4, 0, 0, 5}};
      for (const auto& row : rows) p.row(row);
      for (int32_t r = 0; r < 9; ++r) p.capture(r, hidden);
      p.capture(6, hidden);
      at::Tensor delta = at::randn({9, hidden}), residual = at::randn({9, hidden}) * 4;
      const at::Tensor before = delta.clone(), other = residual.clone();
      const SteerCall call = p.call(hidden);
      cpu_backend().steer(call, delta, residual);
      CHECK_SAME_BITS(residual, other, "residual");
      std::vector<int64_t> counted(6, 0);
      std::vector<double> change(6, 0.0);
      for (size_t r = 0; r < rows.size(); ++r) {
        const auto i = static_cast<int64_t>(r);
        if (rows[r].empty()) CHECK_SAME_BITS(delta[i], before[i], "idle row");
        at::Tensor h = (before[i] + other[i]).to(at::kDouble);
        for (const int32_t o : rows[r]) {
          const at::Tensor next = exact(p.ops[static_cast<size_t>(o)], vectors[o], h);
          counted[static_cast<size_t>(o)] += 1;
          change[static_cast<size_t>(o)] += (next - h).norm().item<double>();
          h = next;
        }
        CHECK_CLOSE(delta[i] + residual[i], h, 2e-6, std::string(kernels.name) + " row " + std::to_string(r));
        CHECK_CLOSE(p.captured[r], h, 2e-6, "capture");
      }
      CHECK_SAME_BITS(p.captured[9], p.captured[6], "captured twice");
      for (size_t o = 0; o < 6; ++o) {
        CHECK_THAT(p.counters[o].rows == counted[o]);
        CHECK_THAT(std::abs(p.counters[o].change_norm - change[o]) < 1e-4 * (1 + change[o]));
      }
    }
  });
  report_worst("steering");
}

TEST(captured_difference_is_the_vector) {
  at::manual_seed(9);
  const at::Tensor v = at::randn({576});
  for (const bool pair : {false, true}) {
    at::Tensor delta = at::randn({1, 576}) * 3, residual = pair ? at::randn({1, 576}) * 10 : at::Tensor();
    at::Tensor plain = delta.clone();
    Program steered, idle;
    steered.ops = {op(SteerKind::kAdd, v, 2.0f)};
    steered.row({0});
    steered.capture(0, 576);
    idle.row({});
    idle.capture(0, 576);
    at::Tensor same = residual;
    cpu_backend().steer(idle.call(576), plain, same);
    cpu_backend().steer(steered.call(576), delta, residual);
    const double worst = (steered.captured[0] - idle.captured[0] - 2 * v).abs().max().item<double>();
    std::printf("  max |captured(steered) - captured(plain) - s v| = %.2e\n", worst);
    CHECK_THAT(worst <= 1e-5);
  }
}

TEST(operations_that_change_nothing_leave_the_bits) {
  at::manual_seed(10);
  const at::Tensor v = at::randn({64});
  const at::Tensor u = v / v.norm();
  Program p;
  p.ops = {op(SteerKind::kAdd, v, 0.0f), op(SteerKind::kCap, u, 1, -1e9f, 1e9f), op(SteerKind::kAblate, u, 1.0f),
           op(SteerKind::kReplace, v, 1, -kInf, kInf, 0, 0.0f), op(SteerKind::kAdd, v, 0.0f, -kInf, kInf, 0, 1, true)};
  p.row({0, 1, 2, 3, 4});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    at::Tensor delta = at::randn({1, 64}).to(type), residual = (at::randn({1, 64}) * 30).to(type);
    const at::Tensor d = delta.clone(), r = residual.clone();
    cpu_backend().steer(p.call(64), delta, residual);
    CHECK_SAME_BITS(delta, d, "delta");
    CHECK_SAME_BITS(residual, r, "residual");
    CHECK_THAT(p.counters[0].rows == 1 && p.counters[0].change_norm == 0.0);
  }
}

TEST(half_precision_is_rounded_once_and_views_are_written_through) {
  at::manual_seed(11);
  const at::Tensor v = at::randn({40});
  Program p;
  p.ops = {op(SteerKind::kAdd, v, 0.5f)};
  p.row({0});
  p.row({});
  p.row({0, 0});
  const at::Tensor factor = at::tensor({1.0, 0.0, 2.0}).unsqueeze(1) * 0.5;
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    at::Tensor delta = at::randn({3, 40}).to(type), none;
    const at::Tensor want = (delta.to(at::kFloat) + factor * v).to(type);
    cpu_backend().steer(p.call(40), delta, none);
    CHECK_CLOSE(delta, want, type == at::kHalf ? 1e-3 : 8e-3, "half alone");
    // float32 residual: the change goes there, delta keeps its bits.
    at::Tensor half = at::randn({3, 40}).to(type), residual = at::randn({3, 40});
    const at::Tensor kept = half.clone(), total = half.to(at::kFloat) + residual + factor * v;
    cpu_backend().steer(p.call(40), half, residual);
    CHECK_SAME_BITS(half, kept, "delta of half precision");
    CHECK_CLOSE(half.to(at::kFloat) + residual, total, 1e-6, "float32 residual");
  }
  at::Tensor base = at::randn({40, 3}), residual = at::randn({40, 6});
  const at::Tensor b = base.clone();
  at::Tensor view = base.t(), other = residual.t().slice(0, 0, 6, 2);
  cpu_backend().steer(p.call(40), view, other);
  CHECK_CLOSE(base.t(), b.t() + factor * v, 1e-6, "transposed view");
  at::Tensor wide = at::randn({3, 50}), none;
  const at::Tensor w = wide.clone();
  at::Tensor narrow = wide.narrow(1, 4, 40);
  cpu_backend().steer(p.call(40), narrow, none);
  CHECK_CLOSE(wide.narrow(1, 4, 40), w.narrow(1, 4, 40) + factor * v, 1e-6, "narrow view");
  CHECK_SAME_BITS(wide.narrow(1, 44, 6), w.narrow(1, 44, 6), "beside the view");
  at::Tensor wrong = at::zeros({2, 40});
  CHECK_THROWS(cpu_backend().steer(p.call(40), wrong, none), "steering expects [3, 40]");
}

}  // namespace chatspace::testing
