// SPDX-License-Identifier: Apache-2.0
// The CPU's operators: checks shapes and dtypes so that no input can reach memory it does not own, then
// hands raw pointers to the kernels. float32 activations; weights as they are stored.
#include <limits>
#include <memory>

#include "kernels/attention_cpu.h"
#include "kernels/linear_cpu.h"
#include "kernels/steer_cpu.h"
#include "kernels/thread_pool.h"
#include "ops/backend.h"

namespace chatspace {
namespace {

// The kernels' element type; false when they have none for this dtype.
bool element_type(const at::Tensor& tensor, ElementType* type) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      *type = ElementType::kFloat32;
      return true;
    case at::kBFloat16:
      *type = ElementType::kBFloat16;
      return true;
    case at::kHalf:
      *type = ElementType::kFloat16;
      return true;
    default:
      return false;
  }
}

ElementType element_type_of(const at::Tensor& tensor, const char* what) {
  ElementType type = ElementType::kFloat32;
  TORCH_CHECK(element_type(tensor, &type), "chatspace: ", what, " must be float32, bfloat16 or float16, got ",
              tensor.scalar_type());
  return type;
}

void check_cpu(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined() && tensor.device().is_cpu(), "chatspace: ", what, " must be a CPU tensor");
}

// [T, n] float32, contiguous.
at::Tensor rows_of(const at::Tensor& x, const char* what) {
  check_cpu(x, what);
  TORCH_CHECK(x.dim() == 2, "chatspace: ", what, " must be [rows, width], got ", x.sizes());
  return x.scalar_type() == at::kFloat ? x.contiguous() : x.to(at::kFloat).contiguous();
}

// One-dimensional parameter of `n` elements as contiguous float32; null stays undefined.
at::Tensor float_vector(const OptionalTensor& vector, int64_t n, const char* what) {
  if (!vector.has_value() || !vector->defined()) return {};
  check_cpu(*vector, what);
  TORCH_CHECK(vector->dim() == 1 && vector->size(0) == n, "chatspace: ", what, " must be [", n, "], got ",
              vector->sizes());
  return vector->to(at::kFloat).contiguous();
}

const float* pointer(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; }

// A weight and what keeps its memory alive while the kernels run.
struct HeldPart {
  at::Tensor weight;
  at::Tensor bias;
  LinearPart part;
};

// The type of a matrix whose rows are float elements or blocks (see backend.h), and its width.
ElementType matrix_type(const at::Tensor& weight, const char* what, int64_t* width) {
  check_cpu(weight, what);
  TORCH_CHECK(weight.dim() == 2, "chatspace: ", what, " must have two dimensions, got ", weight.sizes());
  ElementType type = ElementType::kFloat32;
  if (element_type(weight, &type)) {
    *width = weight.size(1);
    return type;
  }
  switch (weight.scalar_type()) {
    case kQ8_0Tag: type = ElementType::kQ8_0; break;
    case kQ4_0Tag: type = ElementType::kQ4_0; break;
    case kQ4_1Tag: type = ElementType::kQ4_1; break;
    default: TORCH_CHECK(false, "chatspace: ", what, " must be float32, bfloat16 or float16, or blocks, got ",
                         weight.scalar_type());
  }
  const int64_t bytes = weight.size(1) * static_cast<int64_t>(weight.element_size());
  TORCH_CHECK(bytes % block_bytes(type) == 0, "chatspace: a row of ", what, " is ", bytes, " bytes, no whole blocks of ",
              block_bytes(type));
  *width = bytes / block_bytes(type) * kQuantBlock;
  return type;
}

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

Activation activation_of(std::string_view name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  TORCH_CHECK(name == "relu", "chatspace: activation must be silu, gelu_tanh, gelu or relu, got '", std::string(name),
              "'");
  return Activation::kRelu;
}

at::Tensor empty_rows(int64_t rows, int64_t width) {
  return at::empty({rows, width}, at::TensorOptions().dtype(at::kFloat));
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

// A norm's weight (and bias) in one element type the kernels know.
at::Tensor norm_parameter(const at::Tensor& parameter, int64_t n, const char* what) {
  check_cpu(parameter, what);
  TORCH_CHECK(parameter.dim() == 1 && parameter.size(0) == n, "chatspace: ", what, " must be [", n, "], got ",
              parameter.sizes());
  ElementType type;
  return element_type(parameter, &type) ? parameter.contiguous() : parameter.to(at::kFloat).contiguous();
}

// A tensor the steering kernel can address: rows apart by one stride, elements adjacent.
bool addressable(const at::Tensor& t) { return t.stride(1) == 1 || t.size(1) <= 1; }

class CpuBackend final : public Backend {
 public:
  const char* name() const override { return "cpu"; }

  at::Tensor embed(const at::Tensor& tokens, const at::Tensor& weight) override {
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

  std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                  const at::Tensor& weight, double eps) override {
    return norm(delta, residual, weight, std::nullopt, eps, false);
  }

  at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) override {
    return std::get<1>(norm(x, {}, weight, std::nullopt, eps, false));
  }

  std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                    const at::Tensor& weight, const OptionalTensor& bias,
                                                    double eps) override {
    return norm(delta, residual, weight, bias, eps, true);
  }

  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) override {
    const at::Tensor in = rows_of(x, "x");
    HeldPart held = linear_part(weight, bias, in.size(1), "weight");
    at::Tensor out = empty_rows(in.size(0), held.part.n);
    held.part.out = out.mutable_data_ptr<float>();
    linear_parts(in.const_data_ptr<float>(), in.size(1), in.size(0), in.size(1), &held.part, 1, held.part.n);
    return out;
  }

  at::Tensor linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                     const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) override {
    const at::Tensor in = rows_of(x, "x");
    const int64_t k = in.size(1);
    const HeldPart held[3] = {linear_part(wq, bq, k, "wq"), linear_part(wk, bk, k, "wk"),
                              linear_part(wv, bv, k, "wv")};
    const int64_t width = held[0].part.n + held[1].part.n + held[2].part.n;
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

  at::Tensor gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down,
                       const OptionalTensor& gate_bias, const OptionalTensor& up_bias,
                       const OptionalTensor& down_bias, std::string_view act) override {
    const at::Tensor in = rows_of(x, "x");
    const HeldPart held_gate = linear_part(gate, gate_bias, in.size(1), "gate");
    const HeldPart held_up = linear_part(up, up_bias, in.size(1), "up");
    TORCH_CHECK(held_gate.part.n == held_up.part.n, "chatspace: gate has ", held_gate.part.n, " rows, up has ",
                held_up.part.n);
    return two_layers(in, held_gate.part, held_up.part, down, down_bias, act);
  }

  at::Tensor mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias, const at::Tensor& down,
                 const OptionalTensor& down_bias, std::string_view act) override {
    const at::Tensor in = rows_of(x, "x");
    const HeldPart held = linear_part(up, up_bias, in.size(1), "up");
    return two_layers(in, held.part, {}, down, down_bias, act);
  }

  at::Tensor attention(const AttentionCall& call) override;
  void steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) override;

 private:
  // (delta + residual, norm of it); residual undefined: (undefined, norm of delta).
  std::tuple<at::Tensor, at::Tensor> norm(const at::Tensor& delta, const at::Tensor& residual,
                                          const at::Tensor& weight, const OptionalTensor& bias, double eps,
                                          bool centred) {
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
    const at::Tensor middle = empty_rows(rows, gate.n);
    float* mid = middle.mutable_data_ptr<float>();
    linear_activated(in.const_data_ptr<float>(), k, rows, k, gate, up, activation, mid, gate.n);
    at::Tensor out = empty_rows(rows, second.part.n);
    second.part.out = out.mutable_data_ptr<float>();
    linear_parts(mid, gate.n, rows, gate.n, &second.part, 1, second.part.n);
    return out;
  }
};

at::Tensor int32_rows(const at::Tensor& t, int64_t rows, const char* what) {
  check_cpu(t, what);
  TORCH_CHECK(t.dim() == 1 && t.size(0) == rows && t.scalar_type() == at::kInt, "chatspace: ", what, " must be [",
              rows, "] int32, got ", t.sizes(), " ", t.scalar_type());
  return t.contiguous();
}

at::Tensor CpuBackend::attention(const AttentionCall& call) {
  const AttentionSpec& spec = *call.spec;
  TORCH_CHECK(spec.heads > 0 && spec.kv_heads > 0 && spec.head_dim > 0 && spec.heads % spec.kv_heads == 0,
              "chatspace: attention has ", spec.heads, " heads over ", spec.kv_heads, " kv heads of ", spec.head_dim);
  const at::Tensor qkv = rows_of(call.qkv, "qkv");
  const int64_t rows = qkv.size(0), hd = spec.head_dim;
  TORCH_CHECK(qkv.size(1) == (spec.heads + 2 * spec.kv_heads) * hd, "chatspace: qkv must be [T, ",
              (spec.heads + 2 * spec.kv_heads) * hd, "], got ", qkv.sizes());
  const at::Tensor q_norm = float_vector(call.q_norm, hd, "q_norm");
  const at::Tensor k_norm = float_vector(call.k_norm, hd, "k_norm");
  at::Tensor cos, sin;
  if (spec.rope >= 0 && spec.rotary_dim > 0) {
    TORCH_CHECK(spec.rotary_dim <= hd && spec.rotary_dim % 2 == 0, "chatspace: rotary dimension ", spec.rotary_dim,
                " does not fit a head of ", hd);
    cos = rows_of(call.cos, "cos");
    sin = rows_of(call.sin, "sin");
    const int64_t half = spec.rotary_dim / 2;
    TORCH_CHECK(cos.size(0) == rows && cos.size(1) == half && sin.sizes() == cos.sizes(),
                "chatspace: cos and sin must be [", rows, ", ", half, "], got ", cos.sizes(), " and ", sin.sizes());
  }
  const at::Tensor positions = int32_rows(call.positions, rows, "positions");
  const at::Tensor sequences = int32_rows(call.row_sequence, rows, "row_sequence");
  check_cpu(call.block_tables, "block_tables");
  TORCH_CHECK(call.block_tables.dim() == 2 && call.block_tables.scalar_type() == at::kInt,
              "chatspace: block_tables must be [sequences, blocks] int32");
  const at::Tensor tables = call.block_tables.contiguous();
  check_cpu(call.keys, "keys");
  check_cpu(call.values, "values");
  TORCH_CHECK(call.keys.dim() == 4 && call.keys.size(1) == spec.kv_heads && call.keys.size(2) == hd &&
                  call.keys.size(3) == kBlockTokens && call.keys.is_contiguous(),
              "chatspace: keys have the wrong shape ", call.keys.sizes());
  TORCH_CHECK(call.values.dim() == 4 && call.values.size(0) == call.keys.size(0) &&
                  call.values.size(1) == spec.kv_heads && call.values.size(2) == kBlockTokens &&
                  call.values.size(3) == hd && call.values.is_contiguous() &&
                  call.values.scalar_type() == call.keys.scalar_type(),
              "chatspace: values have the wrong shape ", call.values.sizes());
  at::Tensor out = empty_rows(rows, spec.heads * hd);
  if (rows == 0) return out;

  AttentionStep step{};
  step.positions = positions.const_data_ptr<int32_t>();
  step.row_sequence = sequences.const_data_ptr<int32_t>();
  step.block_tables = tables.const_data_ptr<int32_t>();
  step.table_stride = tables.size(1);
  const int64_t blocks = call.keys.size(0);
  int32_t last_sequence = -1;
  int64_t checked = 0;  // blocks of this row's sequence known to be in range
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t sequence = step.row_sequence[row];
    const int64_t position = step.positions[row];
    TORCH_CHECK(sequence >= 0 && sequence < tables.size(0) && position >= 0 &&
                    position / kBlockTokens < tables.size(1),
                "chatspace: row ", row, " is at position ", position, " of sequence ", sequence,
                ", outside block tables of ", tables.sizes());
    if (sequence != last_sequence) checked = 0;
    last_sequence = sequence;
    // A window lets go of old blocks; their entries are never read.
    const int64_t first = spec.window > 0 ? std::max<int64_t>(0, position - spec.window + 1) / kBlockTokens : 0;
    for (int64_t b = std::max(first, checked); b <= position / kBlockTokens; ++b) {
      const int32_t block = step.block_tables[sequence * step.table_stride + b];
      TORCH_CHECK(block >= 0 && block < blocks, "chatspace: block ", block, " is outside a cache of ", blocks);
      checked = b + 1;
    }
  }
  step.rows = rows;
  step.heads = spec.heads;
  step.kv_heads = spec.kv_heads;
  step.head_dim = hd;
  step.rotary_dim = cos.defined() ? spec.rotary_dim : 0;
  step.interleaved = spec.interleaved;
  step.scale = spec.scale;
  step.softcap = spec.softcap;
  step.window = spec.window;
  step.qkv = qkv.const_data_ptr<float>();
  step.qkv_stride = qkv.size(1);
  step.q_norm = pointer(q_norm);
  step.k_norm = pointer(k_norm);
  step.norm_eps = static_cast<float>(call.norm_eps);
  step.cos = pointer(cos);
  step.sin = pointer(sin);
  step.keys = call.keys.data_ptr();
  step.values = call.values.data_ptr();
  step.type = element_type_of(call.keys, "the cache");
  step.out = out.mutable_data_ptr<float>();
  attention_step(step);
  return out;
}

void CpuBackend::steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) {
  check_cpu(delta, "delta");
  TORCH_CHECK(delta.dim() == 2 && delta.size(0) == call.rows && delta.size(1) == call.hidden,
              "chatspace: steering expects [", call.rows, ", ", call.hidden, "], got ", delta.sizes());
  if (residual.defined()) {
    check_cpu(residual, "residual");
    TORCH_CHECK(residual.sizes() == delta.sizes(), "chatspace: delta is ", delta.sizes(), ", residual is ",
                residual.sizes());
  }
  if (call.rows == 0) return;
  SteerRows rows{};
  const bool has_residual = residual.defined();
  const ElementType delta_type = element_type_of(delta, "delta");
  const ElementType residual_type = has_residual ? element_type_of(residual, "residual") : ElementType::kFloat32;
  rows.write_residual =
      has_residual && delta_type != ElementType::kFloat32 && residual_type == ElementType::kFloat32;
  // Kernels walk rows of adjacent elements; anything else is steered in a copy and copied back.
  at::Tensor delta_rows = addressable(delta) ? delta : delta.contiguous();
  at::Tensor residual_rows = !has_residual || addressable(residual) ? residual : residual.contiguous();
  rows.delta = delta_rows.data_ptr();
  rows.delta_type = delta_type;
  rows.delta_stride = delta_rows.stride(0);
  if (has_residual) {
    rows.residual = residual_rows.data_ptr();
    rows.residual_type = residual_type;
    rows.residual_stride = residual_rows.stride(0);
  }
  steer_rows(call, rows);
  at::Tensor& target = rows.write_residual ? residual : delta;
  const at::Tensor& steered = rows.write_residual ? residual_rows : delta_rows;
  if (!steered.is_same(target)) target.copy_(steered);
}

}  // namespace

Backend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace chatspace
