// SPDX-License-Identifier: Apache-2.0
// The CPU's operators: checks shapes and dtypes so that no input can reach memory it does not own, then
// hands raw pointers to the kernels. float32 activations; weights as they are stored. Stateless: one object
// serves every model of the process, each on its own executor thread and pool.
#pragma once

#include "kernels/linear_cpu.h"
#include "ops/backend.h"

namespace chatspace {

class CpuBackend final : public Backend {
 public:
  const char* name() const override { return "cpu"; }
  at::Tensor embed(const at::Tensor& tokens, const at::Tensor& weight) override;
  std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                  const at::Tensor& weight, double eps) override;
  at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) override;
  std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& delta, const at::Tensor& residual,
                                                    const at::Tensor& weight, const OptionalTensor& bias,
                                                    double eps) override;
  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) override;
  at::Tensor linear3(const at::Tensor& x, const at::Tensor& wq, const at::Tensor& wk, const at::Tensor& wv,
                     const OptionalTensor& bq, const OptionalTensor& bk, const OptionalTensor& bv) override;
  at::Tensor gated_mlp(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down,
                       const OptionalTensor& gate_bias, const OptionalTensor& up_bias,
                       const OptionalTensor& down_bias, std::string_view act) override;
  at::Tensor mlp(const at::Tensor& x, const at::Tensor& up, const OptionalTensor& up_bias, const at::Tensor& down,
                 const OptionalTensor& down_bias, std::string_view act) override;
  // cpu_attention.cc, cpu_steer.cc
  at::Tensor attention(const AttentionCall& call) override;
  void steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) override;
};

}  // namespace chatspace
