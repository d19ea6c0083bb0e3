// SPDX-License-Identifier: Apache-2.0
// Projections of the CUDA backend, by cuBLAS through ATen. The result has the dtype of the input;
// where the weight's differs (float32 norms over bfloat16 matrices) the product is made in the
// weight's dtype, which is the smaller copy.
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/launches.h"

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

// out [T, N] (columns may be a slice) = x w^T + bias, in the dtype of x and out. A weight of another one
// (an archive that mixes them) is converted at each call: right, and slow.
void project(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  const at::Tensor transposed = weight.to(x.scalar_type()).t();
  if (bias.has_value() && bias->defined()) {
    at::addmm_out(out, bias->to(x.scalar_type()), x, transposed);
  } else {
    at::mm_out(out, x, transposed);
  }
}

// gate becomes act(gate) * up, or act(gate) where `up` is undefined.
void activate_in_place(at::Tensor& gate, const at::Tensor& up, std::string_view act) {
  ActivationArgs args{};
  args.gate = reads(gate);
  if (up.defined()) args.up = reads(up);
  args.out = writes(gate);
  args.elements = gate.numel();
  args.act = activation_of(act);
  C10_CUDA_CHECK(activate(args, stream_of(gate)));
}

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
  return shaped_like(projected(matrix(x).to(weight.scalar_type()), weight, bias), x);
}

at::Tensor CudaBackend::linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                                const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = matrix(x).to(wq.scalar_type());
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
  const at::Tensor in = matrix(x).to(gate.scalar_type());
  at::Tensor inner = projected(in, gate, gate_bias);
  activate_in_place(inner, projected(in, up, up_bias), act);
  return shaped_like(projected(inner, down, down_bias), x);
}

at::Tensor CudaBackend::mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias,
                            const at::Tensor& down, const OptionalTensor& down_bias, std::string_view act) {
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor inner = projected(matrix(x).to(up.scalar_type()), up, up_bias);
  activate_in_place(inner, at::Tensor(), act);
  return shaped_like(projected(inner, down, down_bias), x);
}

}  // namespace chatspace::cuda
