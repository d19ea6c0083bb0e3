// SPDX-License-Identifier: Apache-2.0
// Steering maths: every operation against float64, order, repeats, idle rows, captures, counters.
#include <cmath>
#include <limits>

#include "ops/backend.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// A step's tables, kept together. Every row is listed, in order.
struct Program {
  std::vector<SteerOp> ops;
  std::vector<SteerCounter> counters;
  std::vector<SteerEntry> entries;
  std::vector<SteerRow> rows;
  std::vector<std::pair<int32_t, at::Tensor>> wanted;  // captures: row and where it goes
  std::vector<std::pair<int32_t, SteerReading>> asked;
  std::vector<at::Tensor> captured;
  std::vector<float*> captures;
  std::vector<SteerReading> readings;

  void row(const std::vector<int32_t>& which, float strength = 1.0f, const float* gate = nullptr) {
    SteerRow row{};
    row.row = static_cast<int32_t>(rows.size());
    row.entry_begin = static_cast<int32_t>(entries.size());
    for (const int32_t o : which) entries.push_back({o, strength, gate});
    row.entry_end = static_cast<int32_t>(entries.size());
    rows.push_back(row);
  }
  void capture(int32_t row, int64_t hidden) {
    captured.push_back(at::zeros({hidden}));
    wanted.emplace_back(row, captured.back());
  }
  SteerCall call(int64_t hidden) {
    counters.assign(ops.size(), {0, 0.0});
    for (size_t i = 0; i < ops.size(); ++i) ops[i].counter = static_cast<int32_t>(i);
    captures.clear();
    readings.clear();
    for (SteerRow& row : rows) {
      row.capture_begin = static_cast<int32_t>(captures.size());
      for (auto& [at, tensor] : wanted) {
        if (at == row.row) captures.push_back(tensor.mutable_data_ptr<float>());
      }
      row.capture_end = static_cast<int32_t>(captures.size());
      row.reading_begin = static_cast<int32_t>(readings.size());
      for (const auto& [at, reading] : asked) {
        if (at == row.row) readings.push_back(reading);
      }
      row.reading_end = static_cast<int32_t>(readings.size());
    }
    const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
    return {size(rows),      hidden,          size(rows), rows.data(),    size(entries),  entries.data(),
            size(ops),       ops.data(),      counters.data(), size(captures), captures.data(), size(readings),
            readings.data()};
  }
};

SteerOp op(SteerKind kind, const at::Tensor& v, float scale = 1, float min = -kInf, float max = kInf, float mean = 0,
           float amount = 1, bool keep_norm = false) {
  SteerOp out{};
  out.vector = v.const_data_ptr<float>();
  out.kind = kind;
  out.scale = scale;
  out.min = min;
  out.max = max;
  out.mean = mean;
  out.amount = amount;
  out.keep_norm = keep_norm;
  return out;
}

SteerOp with_second(SteerOp out, const at::Tensor& second, int32_t rank = 0) {
  out.second = second.const_data_ptr<float>();
  out.rank = rank;
  return out;
}

SteerOp with_gate(SteerOp out, const float* direction, float threshold, bool above, bool cosine = false) {
  out.gate = direction;
  out.threshold = threshold;
  out.gate_above = above ? 1 : 0;
  out.gate_cosine = cosine ? 1 : 0;
  return out;
}

// The formula of steer_types.h in float64.
at::Tensor exact(const SteerOp& o, const at::Tensor& vector, const at::Tensor& second, const at::Tensor& h,
                 double f = 1) {
  const at::Tensor v = vector.to(at::kDouble);
  const double p = v.dim() == 1 ? h.dot(v).item<double>() : 0;
  const double norm = h.norm().item<double>();
  const double scale = o.scale;
  at::Tensor out;
  switch (o.kind) {
    case SteerKind::kAdd:
      out = h + f * scale * v;
      break;
    case SteerKind::kCap:
      out = h + f * (std::min<double>(std::max<double>(p, o.min), o.max) - p) * v;
      break;
    case SteerKind::kAblate:
      out = h + f * (scale - 1) * (p - static_cast<double>(o.mean)) * v;
      break;
    case SteerKind::kReplace:
      out = (1 - f * static_cast<double>(o.amount)) * h + f * static_cast<double>(o.amount) * v;
      break;
    case SteerKind::kRotate: {
      const at::Tensor beside = h - p * v;
      const double angle = std::acos(p / norm) - f * scale;
      out = norm * (std::cos(angle) * v + std::sin(angle) * beside / beside.norm());
      break;
    }
    case SteerKind::kAddNorm:
      out = h + std::min<double>(std::max<double>(f * scale, -o.max), o.max) * norm * v;
      break;
    case SteerKind::kSwap:
      out = h + f * p * (second.to(at::kDouble) - v);
      break;
    case SteerKind::kSubspace: {
      const at::Tensor numbers = second.to(at::kDouble).view({3, -1});
      const at::Tensor along = numbers[0] + (numbers[1] - 1) * (v.matmul(h) - numbers[2]);
      out = h + f * v.t().matmul(along);
      break;
    }
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
      const int64_t rank = hidden == 5 ? 2 : 4;
      const at::Tensor raw_w = at::randn({hidden}), w = raw_w / raw_w.norm();
      const at::Tensor basis = std::get<0>(at::linalg_qr(at::randn({hidden, rank}))).t().contiguous();
      const at::Tensor numbers = at::randn({3, rank});
      Program p;
      const at::Tensor vectors[] = {v, u, u, v, v, u, u, u, u, basis, basis, u};
      const at::Tensor seconds[] = {v, v, v, v, v, v, v, v, w, numbers, numbers, v};
      p.ops = {op(SteerKind::kAdd, v, -2.5f), op(SteerKind::kCap, u, 1, -0.2f, 0.1f),
               op(SteerKind::kAblate, u, 0.25f, -kInf, kInf, 0.7f), op(SteerKind::kReplace, v, 1, -kInf, kInf, 0, 0.3f),
               op(SteerKind::kAdd, v, 1.5f, -kInf, kInf, 0, 1, true), op(SteerKind::kAblate, u, 0),
               op(SteerKind::kRotate, u, 0.4f), op(SteerKind::kAddNorm, u, 0.6f, -kInf, 0.5f),
               with_second(op(SteerKind::kSwap, u), w),
               with_second(op(SteerKind::kSubspace, basis), numbers, static_cast<int32_t>(rank)),
               with_second(op(SteerKind::kSubspace, basis, 1, -kInf, kInf, 0, 1, true), numbers,
                           static_cast<int32_t>(rank)),
               op(SteerKind::kRotate, u, -2.0f)};
      const std::vector<std::vector<int32_t>> rows = {
          {0}, {}, {1}, {2}, {3}, {4}, {5, 0, 0, 4, 1, 3, 2}, {}, {2, 1, 3, 4, 0, 0, 5},
          {6}, {7}, {8}, {9}, {10}, {11}, {9, 8, 6, 7, 9, 0, 6}, {6, 9, 0, 7, 11, 8, 9}};
      const std::vector<float> strengths = {1, 1, 0.5f, 0.25f, 0.5f, 2, 1, 1, 0.5f, 0.5f, 0.25f, 0.5f, 0.5f, 1, 1, 1, 0.75f};
      const auto count = static_cast<int64_t>(rows.size());
      for (size_t r = 0; r < rows.size(); ++r) p.row(rows[r], strengths[r]);
      for (int32_t r = 0; r < count; ++r) p.capture(r, hidden);
      p.capture(6, hidden);
      const at::Tensor directions = at::stack({u, w}).contiguous(), read = at::full({2, 2}, NAN);
      float* read_out = read.mutable_data_ptr<float>();
      p.asked = {{6, {directions.const_data_ptr<float>(), read_out, 2, 0}},
                 {1, {directions.const_data_ptr<float>(), read_out + 2, 2, 1}}};
      at::Tensor delta = at::randn({count, hidden}), residual = at::randn({count, hidden}) * 4;
      const at::Tensor before = delta.clone(), other = residual.clone();
      const SteerCall call = p.call(hidden);
      cpu_backend().steer(call, delta, residual);
      CHECK_SAME_BITS(residual, other, "residual");
      std::vector<int64_t> counted(p.ops.size(), 0);
      std::vector<double> change(p.ops.size(), 0.0);
      for (size_t r = 0; r < rows.size(); ++r) {
        const auto i = static_cast<int64_t>(r);
        if (rows[r].empty()) CHECK_SAME_BITS(delta[i], before[i], "idle row");
        at::Tensor h = (before[i] + other[i]).to(at::kDouble);
        for (const int32_t o : rows[r]) {
          const at::Tensor next = exact(p.ops[static_cast<size_t>(o)], vectors[o], seconds[o], h, strengths[r]);
          counted[static_cast<size_t>(o)] += 1;
          change[static_cast<size_t>(o)] += (next - h).norm().item<double>();
          h = next;
        }
        CHECK_CLOSE(delta[i] + residual[i], h, 2e-6, std::string(kernels.name) + " row " + std::to_string(r));
        CHECK_CLOSE(p.captured[r], h, 2e-6, "capture");
      }
      CHECK_SAME_BITS(p.captured[rows.size()], p.captured[6], "captured twice");
      const at::Tensor exact_read = at::stack({directions.matmul(p.captured[6]),
                                               directions.matmul(p.captured[1]) / p.captured[1].norm()});
      CHECK_CLOSE(read, exact_read, 2e-6, "readings");
      for (size_t o = 0; o < p.ops.size(); ++o) {
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

TEST(gates_open_on_their_side_of_the_threshold_alone) {
  at::manual_seed(12);
  for_each_isa([](const CpuKernels&) {
    const int64_t hidden = 100;
    const at::Tensor v = at::randn({hidden}), raw = at::randn({hidden}), c = raw / raw.norm();
    const float* gate = c.const_data_ptr<float>();
    at::Tensor delta = at::randn({9, hidden}), none;
    for (const int64_t row : {6, 7, 8}) delta[row].fill_(row == 6 ? 0.0 : std::numeric_limits<double>::quiet_NaN());
    const at::Tensor before = delta.clone();
    const float projection = before[0].dot(c).item<float>();
    const float cosine = projection / before[0].norm().item<float>();
    Program p;
    // Both sides by projection and by cosine, of the row as it stands at the operation's turn.
    p.ops = {with_gate(op(SteerKind::kAdd, v), gate, projection - 0.01f, true),
             with_gate(op(SteerKind::kAdd, v), gate, projection + 0.01f, true),
             with_gate(op(SteerKind::kAdd, v), gate, cosine + 0.01f, false, true),
             with_gate(op(SteerKind::kAdd, v), gate, cosine - 0.01f, false, true),
             op(SteerKind::kAblate, c, 0),
             with_gate(op(SteerKind::kAdd, v), nullptr, 0.5f, true),
             with_gate(op(SteerKind::kAdd, v), gate, -0.5f, true, true),
             with_gate(op(SteerKind::kAdd, v), gate, 0.01f, true)};
    delta[1].copy_(before[0]);
    delta[2].copy_(before[0]);
    delta[3].copy_(before[0]);
    delta[4] += 5 * c - before[4].dot(c) * c;
    const float high = 0.6f, low = 0.4f;
    p.row({0});
    p.row({1});
    p.row({2});
    p.row({3});
    p.row({4, 7});            // removing the direction shuts the gate
    p.row({5}, 1.0f, &high);  // read elsewhere
    p.row({6});               // zeros: cosine 0
    p.row({0, 1, 2, 3, 6});   // NaN opens nothing
    p.row({5}, 1.0f, &low);
    const at::Tensor given = delta.clone();
    cpu_backend().steer(p.call(hidden), delta, none);
    for (const int64_t row : {0, 2, 5, 6}) CHECK_CLOSE(delta[row], given[row] + v, 1e-6, "open");
    for (const int64_t row : {1, 3}) CHECK_SAME_BITS(delta[row], given[row], "shut");
    CHECK_THAT(p.counters[0].rows == 1 && p.counters[1].rows == 0 && p.counters[2].rows == 1 &&
               p.counters[3].rows == 0 && p.counters[4].rows == 1 && p.counters[5].rows == 1 && p.counters[6].rows == 1 &&
               p.counters[7].rows == 0);
    CHECK_THAT(std::abs((delta[4] - given[4] + given[4].dot(c) * c).norm().item<double>()) < 1e-5);
  });
}

TEST(rotation_keeps_the_norm_and_leaves_the_axis) {
  at::manual_seed(13);
  for_each_isa([](const CpuKernels&) {
    const int64_t hidden = 576;
    const at::Tensor raw = at::randn({hidden}), u = (raw / raw.norm()).contiguous();
    Program p;
    p.ops = {op(SteerKind::kRotate, u, 1.0f)};
    for (int i = 0; i < 4; ++i) p.row({0});
    at::Tensor delta = at::randn({4, hidden}) * 20, none;
    delta[1] = u * 3;
    delta[2] = u * -7;
    delta[3].zero_();
    const at::Tensor before = delta.clone();
    cpu_backend().steer(p.call(hidden), delta, none);
    const double norm = before[0].to(at::kDouble).norm().item<double>();
    CHECK_THAT(std::abs(delta[0].to(at::kDouble).norm().item<double>() / norm - 1) < 1e-6);
    const double was = std::acos(before[0].dot(u).item<double>() / norm);
    const double is = std::acos(delta[0].dot(u).item<double>() / norm);
    CHECK_THAT(std::abs(was - is - 1.0) < 1e-5);
    for (const int64_t row : {1, 2, 3}) CHECK_SAME_BITS(delta[row], before[row], "on the axis");
  });
}

}  // namespace chatspace::testing
