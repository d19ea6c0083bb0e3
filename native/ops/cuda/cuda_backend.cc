// SPDX-License-Identifier: Apache-2.0
// Embedding and norms of the CUDA backend.
#include "ops/cuda/cuda_backend.h"

#include <ATen/Context.h>

#include "ops/cuda/norm_call.h"
#include "ops/cuda/products.h"

namespace chatspace::cuda {
namespace {

thread_local bool reproducible_thread = false;

using NormLaunch = cudaError_t (*)(const NormArgs&, cudaStream_t);

std::tuple<at::Tensor, at::Tensor> norm(NormLaunch launch, const at::Tensor& delta, const at::Tensor& residual,
                                        const at::Tensor& weight, const OptionalTensor& bias, double eps,
                                        bool want_sum) {
  const c10::cuda::CUDAGuard guard(delta.device());
  const NormCall call = NormCall::prepare(delta, residual, weight, bias, eps, want_sum);
  C10_CUDA_CHECK(launch(call.args, stream_of(delta)));
  return {call.sum, call.normed};
}

}  // namespace

CudaBackend::CudaBackend() {
  // Parity with the CPU is promised in float32: no TF32, and half-precision products summed in float32.
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  at::globalContext().setAllowFP16ReductionCuBLAS(false);
}

void CudaBackend::set_reproducible(bool on) { reproducible_thread = on; }

NormCall NormCall::prepare(const at::Tensor& delta, const at::Tensor& residual, const at::Tensor& weight,
                           const OptionalTensor& bias, double eps, bool want_sum) {
  const int64_t hidden = weight.numel();
  TORCH_CHECK(delta.dim() > 0 && delta.size(-1) == hidden, "chatspace cuda norm: expected rows of ", hidden,
              ", got a tensor of shape ", delta.sizes());
  TORCH_CHECK(!residual.defined() || residual.numel() == delta.numel(),
              "chatspace cuda norm: expected a residual of shape ", delta.sizes(), ", got ",
              residual.defined() ? residual.sizes() : at::IntArrayRef());
  NormCall call;
  call.delta = delta.contiguous();
  if (residual.defined()) call.residual = residual.to(at::kFloat).contiguous();
  call.weight = weight.contiguous();
  call.bias = dense(bias);
  if (want_sum) call.sum = at::empty(delta.sizes(), delta.options().dtype(at::kFloat));
  call.normed = at::empty(delta.sizes(), delta.options().dtype(weight.scalar_type()));
  call.args.delta = reads(call.delta);
  call.args.residual = residual.defined() ? call.residual.const_data_ptr<float>() : nullptr;
  call.args.sum = want_sum ? call.sum.mutable_data_ptr<float>() : nullptr;
  call.args.weight = reads(call.weight);
  call.args.bias = reads(call.bias);
  call.args.normed = writes(call.normed);
  call.args.rows = rows_of(delta, hidden);
  call.args.hidden = hidden;
  call.args.eps = static_cast<float>(eps);
  return call;
}

bool reproducible() { return reproducible_thread; }

at::Tensor CudaBackend::embed(const at::Tensor& tokens, const at::Tensor& weight) {
  const c10::cuda::CUDAGuard guard(weight.device());
  if (is_blocks(weight)) return embed_blocks(tokens, weight);
  TORCH_CHECK(tokens.scalar_type() == at::kLong && weight.dim() == 2,
              "chatspace cuda embed: expected int64 tokens and a [vocabulary, hidden] weight, got ",
              tokens.scalar_type(), " and ", weight.sizes());
  const at::Tensor ids = tokens.contiguous();
  const at::Tensor table = weight.contiguous();
  std::vector<int64_t> shape = tokens.sizes().vec();
  shape.push_back(weight.size(1));
  at::Tensor out = at::empty(shape, weight.options().dtype(at::kFloat));
  const EmbedArgs args{ids.const_data_ptr<int64_t>(),
                       reads(table),
                       out.mutable_data_ptr<float>(),
                       ids.numel(),
                       table.size(0),
                       table.size(1)};
  C10_CUDA_CHECK(cuda::embed(args, stream_of(weight)));
  return out;
}

std::tuple<at::Tensor, at::Tensor> CudaBackend::add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                             const at::Tensor& weight, double eps) {
  return norm(&cuda::rms_norm, delta, residual, weight, std::nullopt, eps, true);
}

at::Tensor CudaBackend::rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return std::get<1>(norm(&cuda::rms_norm, x, at::Tensor(), weight, std::nullopt, eps, false));
}

std::tuple<at::Tensor, at::Tensor> CudaBackend::add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                               const at::Tensor& weight, const OptionalTensor& bias,
                                                               double eps) {
  return norm(&cuda::layer_norm, delta, residual, weight, bias, eps, true);
}

}  // namespace chatspace::cuda
