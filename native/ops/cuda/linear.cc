// SPDX-License-Identifier: Apache-2.0
// Projections of the CUDA backend. The result has the dtype of the input; where a float weight's differs
// (float32 norms over bfloat16 matrices) the product is made in the weight's dtype, which is the smaller
// copy.
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/launches.h"
#include "ops/cuda/products.h"

namespace chatspace::cuda {
namespace {

Activation activation_of(std::string_view name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  TORCH_CHECK(false, "chatspace cuda: expected activation silu, gelu_tanh, gelu or relu, got ", std::string(name));
}

at::Tensor matrix(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// x as rows in the dtype a product is made in: a float weight's own, that of x for blocks.
at::Tensor input_for(const at::Tensor& x, const at::Tensor& weight) {
  return is_blocks(weight) ? matrix(x).contiguous() : matrix(x).to(weight.scalar_type());
}

// act(gate) * up, or act(gate) where `up` is undefined; both [T, N] with one row stride.
at::Tensor activated(const at::Tensor& gate, const at::Tensor& up, std::string_view act) {
  at::Tensor out = at::empty(gate.sizes(), gate.options());
  ActivationArgs args{};
  args.gate = reads(gate);
  if (up.defined()) args.up = reads(up);
  args.out = writes(out);
  args.rows = gate.size(0);
  args.width = gate.size(1);
  args.in_stride = gate.stride(0);
  args.out_stride = out.stride(0);
  args.act = activation_of(act);
  C10_CUDA_CHECK(activate(args, stream_of(gate)));
  return out;
}

bool given(const OptionalTensor& tensor) { return tensor.has_value() && tensor->defined(); }

at::Tensor projected(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  at::Tensor out = at::empty({x.size(0), weight.size(0)}, x.options());
  project(out, x, weight, bias);
  return out;
}

at::Tensor shaped_like(at::Tensor result, const at::Tensor& x) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = result.size(-1);
  return result.to(x.scalar_type()).view(shape);
}

}  // namespace

at::Tensor CudaBackend::linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  return shaped_like(projected(input_for(x, weight), weight, bias), x);
}

at::Tensor CudaBackend::linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                                const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = input_for(x, wq);
  if (!given(bq) && !given(bk) && !given(bv)) {
    const at::Tensor joined = joined_matrix({wq, wk, wv});
    if (joined.defined()) return shaped_like(projected(in, joined, std::nullopt), x);
  }
  at::Tensor out = at::empty({in.size(0), wq.size(0) + wk.size(0) + wv.size(0)}, in.options());
  int64_t column = 0;
  const auto part = [&](const at::Tensor& weight, const OptionalTensor& bias) {
    at::Tensor columns = out.narrow(1, column, weight.size(0));
    project(columns, in, weight, bias);
    column += weight.size(0);
  };
  part(wq, bq);
  part(wk, bk);
  part(wv, bv);
  return shaped_like(out, x);
}

at::Tensor CudaBackend::gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up,
                                  const at::Tensor& down, const OptionalTensor& gate_bias,
                                  const OptionalTensor& up_bias, const OptionalTensor& down_bias,
                                  std::string_view act) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = input_for(x, gate);
  const int64_t width = gate.size(0);
  at::Tensor both = at::empty({in.size(0), width + up.size(0)}, in.options());
  at::Tensor gated = both.narrow(1, 0, width);
  at::Tensor upped = both.narrow(1, width, up.size(0));
  const at::Tensor joined = given(gate_bias) || given(up_bias) ? at::Tensor() : joined_matrix({gate, up});
  if (joined.defined()) {
    project(both, in, joined, std::nullopt);
  } else {
    project(gated, in, gate, gate_bias);
    project(upped, in, up, up_bias);
  }
  return shaped_like(projected(activated(gated, upped, act), down, down_bias), x);
}

at::Tensor CudaBackend::mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias,
                            const at::Tensor& down, const OptionalTensor& down_bias, std::string_view act) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor inner = activated(projected(input_for(x, up), up, up_bias), at::Tensor(), act);
  return shaped_like(projected(inner, down, down_bias), x);
}

}  // namespace chatspace::cuda
