// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels' bodies, run on the CPU by an emulated block, against the CPU operators (the oracle)
// and against ATen. This shows the arithmetic, the indexing and the barriers; that the same code runs on
// a device is for the GPU tests to show.
#include <random>

#include "kernels/cuda/activation.cuh"
#include "ops/backend.h"
#include "tests/check.h"
#include "tests/emulated_steer.h"

namespace chatspace::testing {
namespace {

const at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

}  // namespace

TEST(cuda_half_precision_conversions_round_like_aten) {
  // All 16-bit patterns widened; random and awkward floats rounded.
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float half = cuda::to_float(cuda::Float16{pattern});
    const float half_expected = static_cast<float>(c10::Half(pattern, c10::Half::from_bits()));
    const float brain = cuda::to_float(cuda::BFloat16{pattern});
    const float brain_expected = static_cast<float>(c10::BFloat16(pattern, c10::BFloat16::from_bits()));
    if (!(half == half_expected || (half != half && half_expected != half_expected)) ||
        !(brain == brain_expected || (brain != brain && brain_expected != brain_expected))) {
      fail(__FILE__, __LINE__, "widening pattern " + std::to_string(bits));
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 2000000; ++i) {
    const uint32_t bits = random();
    float value;
    std::memcpy(&value, &bits, sizeof value);
    if (i % 2 == 0) value = std::ldexp(value, -std::ilogb(value == 0 ? 1.0f : value) + static_cast<int>(bits % 48) - 30);
    if (value != value) continue;
    CHECK_THAT(cuda::from_float<cuda::Float16>(value).bits == c10::Half(value).x);
    CHECK_THAT(cuda::from_float<cuda::BFloat16>(value).bits == c10::BFloat16(value).x);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THAT(std::isnan(cuda::to_float(cuda::from_float<cuda::Float16>(nan))));
  CHECK_THAT(std::isnan(cuda::to_float(cuda::from_float<cuda::BFloat16>(nan))));
}

TEST(cuda_activations_match_aten) {
  const at::Tensor x = at::cat({at::linspace(-20, 20, 4001), at::tensor({0.0f, -0.0f, 100.0f, -100.0f, 1e-8f})});
  const std::pair<cuda::Activation, at::Tensor> wanted[] = {{cuda::Activation::kSilu, at::silu(x.to(at::kDouble))},
                                                            {cuda::Activation::kGeluTanh, at::gelu(x.to(at::kDouble), "tanh")},
                                                            {cuda::Activation::kGelu, at::gelu(x.to(at::kDouble))},
                                                            {cuda::Activation::kRelu, at::relu(x.to(at::kDouble))}};
  for (const auto& [act, expected] : wanted) {
    at::Tensor got = at::empty_like(x);
    for (int64_t i = 0; i < x.numel(); ++i) {
      got.mutable_data_ptr<float>()[i] = cuda::activated(act, x.const_data_ptr<float>()[i]);
    }
    CHECK_CLOSE(got, expected, 1e-7, "activation " + std::to_string(static_cast<int>(act)));
  }
  report_worst("activations");
  CHECK_THAT(std::isnan(cuda::activated(cuda::Activation::kRelu, std::nanf(""))));
}

TEST(cuda_gate_and_up_of_one_product_are_taken_from_its_columns) {
  at::manual_seed(2);
  for (const at::ScalarType type : kTypes) {
    const int64_t rows = 3, width = 37;
    const at::Tensor both = at::randn({rows, 2 * width}).to(type), out = at::full({rows, width}, NAN).to(type);
    const at::Tensor gate = both.narrow(1, 0, width), up = both.narrow(1, width, width);
    cuda::ActivationArgs args{};
    args.gate = reads(gate);
    args.up = reads(up);
    args.out = writes(out);
    args.rows = rows;
    args.width = width;
    args.in_stride = both.stride(0);
    args.out_stride = out.stride(0);
    args.act = cuda::Activation::kSilu;
    for (int64_t i = rows * width - 1; i >= 0; --i) cuda::activate_element(args, i);
    const at::Tensor expected = at::silu(gate.to(at::kFloat)) * up.to(at::kFloat);
    CHECK_CLOSE(out, expected.to(type), type == at::kFloat ? 1e-6 : type == at::kHalf ? 1e-3 : 8e-3, "gated");
  }
  report_worst("gate and up");
}

TEST(cuda_norm_bodies_match_the_cpu_operators) {
  at::manual_seed(3);
  for (const at::ScalarType type : kTypes) {
    for (const int64_t hidden : {1, 8, 33, 576, 2049}) {
      for (const int threads : {32, 128}) {
        const int64_t rows = 3;
        const at::Tensor delta = at::randn({rows, hidden}).to(type), residual = at::randn({rows, hidden}) * 3 + 1;
        const at::Tensor weight = at::randn({hidden}).to(type), bias = at::randn({hidden}).to(type);
        for (const bool centred : {false, true}) {
          for (const bool with_residual : {true, false}) {
            at::Tensor sum = at::full({rows, hidden}, NAN), normed = at::empty({rows, hidden}).to(type);
            cuda::NormArgs args{};
            args.delta = reads(delta);
            args.residual = with_residual ? residual.const_data_ptr<float>() : nullptr;
            args.sum = with_residual ? sum.mutable_data_ptr<float>() : nullptr;
            args.weight = reads(weight);
            if (centred) args.bias = reads(bias);
            args.normed = writes(normed);
            args.rows = rows;
            args.hidden = hidden;
            args.eps = 1e-5f;
            EmulatedBlock block(threads);
            for (int64_t row = 0; row < rows; ++row) {
              block.run([&](EmulatedBlock::Lane& lane) {
                centred ? cuda::layer_norm_row(lane, args, row) : cuda::rms_norm_row(lane, args, row);
              });
            }
            const at::Tensor other = with_residual ? residual : at::zeros_like(residual);
            const auto [sum_expected, expected] = centred
                                                      ? cpu_backend().add_layer_norm(delta, other, weight, bias, 1e-5)
                                                      : cpu_backend().add_rms_norm(delta, other, weight, 1e-5);
            const std::string what = (centred ? "layer norm " : "rms norm ") + std::to_string(hidden);
            if (with_residual) CHECK_SAME_BITS(sum, sum_expected, what);
            CHECK_CLOSE(normed, expected.to(type), type == at::kFloat ? 2e-6 : type == at::kHalf ? 1e-3 : 8e-3, what);
          }
        }
      }
    }
    report_worst(std::string("norms ") + c10::toString(type));
  }
}

TEST(cuda_steering_body_matches_the_cpu_operator) {
  at::manual_seed(4);
  std::mt19937 random(4);
  for (const auto& [delta_type, residual_type] :
       {std::pair{at::kFloat, at::kFloat}, {at::kBFloat16, at::kFloat}, {at::kHalf, at::kFloat},
        {at::kBFloat16, at::kBFloat16}, {at::kFloat, at::kByte}, {at::kHalf, at::kByte}}) {  // kByte: no residual
    const bool paired = residual_type != at::kByte;
    for (const int64_t hidden : {5, 64, 577}) {
      for (const int threads : {32, 96}) {
        const int64_t rows = 8;
        RandomSteer tables(random, rows, hidden);
        const at::Tensor delta = at::randn({rows, hidden}).to(delta_type);
        const at::Tensor residual = paired ? (at::randn({rows, hidden}) * 4).to(residual_type) : at::Tensor();
        at::Tensor oracle_delta = delta.clone(), oracle_residual = paired ? residual.clone() : residual;
        cpu_backend().steer(tables.call(rows, hidden), oracle_delta, oracle_residual);
        const at::Tensor oracle_captured = tables.captured.clone(), oracle_read = tables.read.clone();
        const std::vector<SteerCounter> oracle_counters = tables.counters;
        tables.counters.assign(tables.counters.size(), {});
        tables.captured.fill_(NAN);
        tables.read.fill_(NAN);

        at::Tensor got_delta = delta.clone(), got_residual = paired ? residual.clone() : residual;
        emulate_steer(tables.call(rows, hidden), got_delta, got_residual, threads, random());
        const std::string what = std::string(c10::toString(delta_type)) + " hidden " + std::to_string(hidden);
        const bool half = delta_type != at::kFloat && !(paired && residual_type == at::kFloat);
        const double allowed = half ? 8e-3 : 5e-6;
        CHECK_CLOSE(got_delta, oracle_delta, allowed, what + " delta");
        if (paired) CHECK_CLOSE(got_residual, oracle_residual, allowed, what + " residual");
        CHECK_CLOSE(tables.captured, oracle_captured, 5e-6, what + " captures");
        CHECK_CLOSE(tables.read, oracle_read, 5e-6, what + " readings");
        for (int64_t row = 3; row < rows; row += 4) {
          CHECK_SAME_BITS(got_delta[row], delta[row], what + " row without operations");
        }
        for (size_t i = 0; i < tables.counters.size(); ++i) {
          CHECK_THAT(tables.counters[i].rows == oracle_counters[i].rows);
          CHECK_THAT(std::abs(tables.counters[i].change_norm - oracle_counters[i].change_norm) <=
                     1e-4 * (oracle_counters[i].change_norm + 1e-3));
        }
      }
    }
  }
  report_worst("steering");
}

TEST(cuda_steering_that_changes_nothing_keeps_every_bit) {
  at::manual_seed(5);
  const int64_t hidden = 100;
  at::Tensor direction = at::randn({hidden});
  direction = direction / direction.norm();
  const float* u = direction.const_data_ptr<float>();
  const auto make = [&](SteerKind kind, float scale, float amount) {
    SteerOp op{};
    op.vector = u;
    op.kind = kind;
    op.scale = scale;
    op.min = kind == SteerKind::kCap ? -1e6f : 0.0f;
    op.max = kind == SteerKind::kCap ? 1e6f : 0.0f;
    op.amount = amount;
    return op;
  };
  SteerOp kept = make(SteerKind::kAdd, 0.0f, 0.0f);
  kept.keep_norm = 1;
  SteerOp shut = make(SteerKind::kAdd, 1.0f, 0.0f);
  shut.gate = u;
  shut.threshold = 1e6f;
  shut.gate_above = 1;
  const SteerOp idle[] = {kept,
                          make(SteerKind::kCap, 1.0f, 0.0f),
                          make(SteerKind::kAblate, 1.0f, 0.0f),
                          make(SteerKind::kReplace, 1.0f, 0.0f),
                          make(SteerKind::kRotate, 0.0f, 0.0f),
                          make(SteerKind::kAddNorm, 0.0f, 0.0f),
                          shut};
  for (const SteerOp& op : idle) {
    const at::Tensor delta = at::randn({1, hidden}), residual = at::randn({1, hidden}) * 50;
    const at::Tensor got_delta = delta.clone(), got_residual = residual.clone();
    const SteerEntry entry{0, 1.0f, nullptr};
    const SteerRow row{0, 0, 1, 0, 0, 0, 0};
    SteerCounter counter{};
    emulate_steer({1, hidden, 1, &row, 1, &entry, 1, &op, &counter, 0, nullptr, 0, nullptr}, got_delta, got_residual, 64,
                  1);
    CHECK_SAME_BITS(got_delta, delta, "delta");
    CHECK_SAME_BITS(got_residual, residual, "residual");
    CHECK_THAT(counter.rows == (op.gate == nullptr ? 1 : 0) && counter.change_norm == 0.0);
  }
}

}  // namespace chatspace::testing
