// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu_backend.h"

#include <algorithm>

#include "kernels/profile.h"
#include "kernels/thread_pool.h"
#include "ops/cpu_tensors.h"

namespace chatspace {
namespace {

// A weight and what keeps its memory alive while the kernels run.
struct HeldPart {
  at::Tensor weight;
  at::Tensor bias;
  LinearPart part;
};

HeldPart linear_part(const at::Tensor& weight, const OptionalTensor& bias, int64_t k, const char* what) {
  int64_t width = 0;
  const ElementType type = matrix_type(weight, what, &width);
  TORCH_CHECK(width == k, "chatspace: ", what, " must be [out, ", k, "], got ", weight.sizes(), " of width ", width);
  HeldPart held{weight.contiguous(), float_vector(bias, weight.size(0), "bias"), {}};
  held.part.type = type;
  held.part.weight = held.weight.const_data_ptr();
  held.part.n = weight.size(0);
  held.part.bias = pointer(held.bias);
  return held;
}

// Bytes of the weight, for the profile.
int64_t weight_bytes(const LinearPart& part, int64_t k) { return part.n * row_bytes(part.type, k); }

Activation activation_of(std::string_view name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  TORCH_CHECK(name == "relu", "chatspace: activation must be silu, gelu_tanh, gelu or relu, got '", std::string(name),
              "'");
  return Activation::kRelu;
}

// Rows a thread takes at a time in the row-wise operators: about 32 Ki elements.
int64_t row_chunk(int64_t width) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(width, 1)); }

template <typename Body>
void for_row_chunks(int64_t rows, int64_t width, const Body& body) {
  const int64_t chunk = row_chunk(width);
  current_pool()->parallel_for((rows + chunk - 1) / chunk, [&](int64_t index) {
    const int64_t end = std::min(rows, (index + 1) * chunk);
    for (int64_t row = index * chunk; row < end; ++row) body(row);
  });
}

// (delta + residual, norm of it); residual undefined: (undefined, norm of delta).
std::tuple<at::Tensor, at::Tensor> norm(const at::Tensor& delta, const at::Tensor& residual,
                                        const at::Tensor& weight, const OptionalTensor& bias, double eps,
                                        bool centred) {
  const ProfileScope profile(Operator::kNorm);
  const at::Tensor x = rows_of(delta, "delta");
  const int64_t rows = x.size(0), width = x.size(1);
  at::Tensor other;
  if (residual.defined()) {
    other = rows_of(residual, "residual");
    TORCH_CHECK(other.sizes() == x.sizes(), "chatspace: delta is ", x.sizes(), ", residual is ", other.sizes());
  }
  at::Tensor scale = norm_parameter(weight, width, "the norm's weight");
  at::Tensor shift;
  if (bias.has_value() && bias->defined()) {
    shift = norm_parameter(*bias, width, "the norm's bias");
    if (shift.scalar_type() != scale.scalar_type()) {
      shift = shift.to(at::kFloat);
      scale = scale.to(at::kFloat);
    }
  }
  const ElementType type = element_type_of(scale, "the norm's weight");
  // Fresh: the incoming residual may be held by a capture or by the caller.
  at::Tensor sum = other.defined() ? empty_rows(rows, width) : at::Tensor();
  at::Tensor out = empty_rows(rows, width);
  const float* in = x.const_data_ptr<float>();
  const float* add = pointer(other);
  float* total = sum.defined() ? sum.mutable_data_ptr<float>() : nullptr;
  float* to = out.mutable_data_ptr<float>();
  const void* w = scale.const_data_ptr();
  const void* b = shift.defined() ? shift.const_data_ptr() : nullptr;
  const CpuKernels& kernels = cpu_kernels();
  for_row_chunks(rows, width, [&](int64_t row) {
    const int64_t at = row * width;
    const float* r = add != nullptr ? add + at : nullptr;
    float* s = total != nullptr ? total + at : nullptr;
    if (centred) {
      kernels.layer_norm(in + at, r, s, w, b, type, static_cast<float>(eps), width, to + at);
    } else {
      kernels.rms_norm(in + at, r, s, w, type, static_cast<float>(eps), width, to + at);
    }
  });
  return {sum, out};
}

at::Tensor two_layers(const at::Tensor& in, const LinearPart& gate, const LinearPart& up, const at::Tensor& down,
                      const OptionalTensor& down_bias, std::string_view act) {
  const Activation activation = activation_of(act);
  HeldPart second = linear_part(down, down_bias, gate.n, "down");
  const int64_t rows = in.size(0), k = in.size(1);
  const ProfileScope profile(Operator::kMlp, weight_bytes(gate, k) + weight_bytes(up, k) +
                                                 weight_bytes(second.part, gate.n));
  const at::Tensor middle = empty_rows(rows, gate.n);
  float* mid = middle.mutable_data_ptr<float>();
  linear_activated(in.const_data_ptr<float>(), k, rows, k, gate, up, activation, mid, gate.n);
  at::Tensor out = empty_rows(rows, second.part.n);
  second.part.out = out.mutable_data_ptr<float>();
  linear_parts(mid, gate.n, rows, gate.n, &second.part, 1, second.part.n);
  return out;
}

}  // namespace

at::Tensor CpuBackend::embed(const at::Tensor& tokens, const at::Tensor& weight) {
  const ProfileScope profile(Operator::kEmbed);
  check_cpu(tokens, "tokens");
  TORCH_CHECK(tokens.dim() == 1 && tokens.scalar_type() == at::kLong, "chatspace: tokens must be [T] int64");
  int64_t width = 0;
  const ElementType type = matrix_type(weight, "the embedding table", &width);
  const at::Tensor ids = tokens.contiguous();
  const at::Tensor table = weight.contiguous();
  const int64_t vocabulary = table.size(0);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    TORCH_CHECK_INDEX(id[i] >= 0 && id[i] < vocabulary, "chatspace: token ", id[i], " of row ", i,
                      " is outside the vocabulary of ", vocabulary);
  }
  at::Tensor out = empty_rows(ids.numel(), width);
  float* to = out.mutable_data_ptr<float>();
  const char* from = static_cast<const char*>(table.const_data_ptr());
  const CpuKernels& kernels = cpu_kernels();
  for_row_chunks(ids.numel(), width, [&](int64_t row) {
    kernels.to_float(from + id[row] * row_bytes(type, width), type, width, to + row * width);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> CpuBackend::add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                            const at::Tensor& weight, double eps) {
  return norm(delta, residual, weight, std::nullopt, eps, false);
}

at::Tensor CpuBackend::rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return std::get<1>(norm(x, {}, weight, std::nullopt, eps, false));
}

std::tuple<at::Tensor, at::Tensor> CpuBackend::add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                              const at::Tensor& weight, const OptionalTensor& bias,
                                                              double eps) {
  return norm(delta, residual, weight, bias, eps, true);
}

at::Tensor CpuBackend::linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  const at::Tensor in = rows_of(x, "x");
  HeldPart held = linear_part(weight, bias, in.size(1), "weight");
  // A product this wide is the one over the vocabulary.
  const ProfileScope profile(held.part.n > 4 * in.size(1) ? Operator::kHead : Operator::kLinear,
                             weight_bytes(held.part, in.size(1)));
  at::Tensor out = empty_rows(in.size(0), held.part.n);
  held.part.out = out.mutable_data_ptr<float>();
  linear_parts(in.const_data_ptr<float>(), in.size(1), in.size(0), in.size(1), &held.part, 1, held.part.n);
  return out;
}

at::Tensor CpuBackend::linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                               const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) {
  const at::Tensor in = rows_of(x, "x");
  const int64_t k = in.size(1);
  const HeldPart held[3] = {linear_part(wq, bq, k, "wq"), linear_part(wk, bk, k, "wk"),
                            linear_part(wv, bv, k, "wv")};
  const int64_t width = held[0].part.n + held[1].part.n + held[2].part.n;
  const ProfileScope profile(Operator::kQkv, weight_bytes(held[0].part, k) + weight_bytes(held[1].part, k) +
                                                 weight_bytes(held[2].part, k));
  at::Tensor out = empty_rows(in.size(0), width);
  LinearPart parts[3];
  int64_t column = 0;
  for (int i = 0; i < 3; ++i) {
    parts[i] = held[i].part;
    parts[i].out = out.mutable_data_ptr<float>() + column;
    column += parts[i].n;
  }
  linear_parts(in.const_data_ptr<float>(), k, in.size(0), k, parts, 3, width);
  return out;
}

at::Tensor CpuBackend::gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up,
                                 const at::Tensor& down, const OptionalTensor& gate_bias,
                                 const OptionalTensor& up_bias, const OptionalTensor& down_bias,
                                 std::string_view act) {
  const at::Tensor in = rows_of(x, "x");
  const HeldPart held_gate = linear_part(gate, gate_bias, in.size(1), "gate");
  const HeldPart held_up = linear_part(up, up_bias, in.size(1), "up");
  TORCH_CHECK(held_gate.part.n == held_up.part.n, "chatspace: gate has ", held_gate.part.n, " rows, up has ",
              held_up.part.n);
  return two_layers(in, held_gate.part, held_up.part, down, down_bias, act);
}

at::Tensor CpuBackend::mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias,
                           const at::Tensor& down, const OptionalTensor& down_bias, std::string_view act) {
  const at::Tensor in = rows_of(x, "x");
  const HeldPart held = linear_part(up, up_bias, in.size(1), "up");
  return two_layers(in, held.part, {}, down, down_bias, act);
}

Backend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace chatspace
