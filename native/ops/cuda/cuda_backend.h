// SPDX-License-Identifier: Apache-2.0
// The CUDA backend: one object for all devices of the process. Every call works on the device of its
// first tensor and on that device's current stream, allocates from torch's stream-ordered cache and
// returns before the device is done; read_counters() alone waits. Holds no state but what belongs to the
// calling thread (the steering counters, reproducible mode), so models on different threads need no lock.
#pragma once

#include "ops/backend.h"

namespace chatspace::cuda {

class CudaBackend final : public Backend {
 public:
  CudaBackend();
  const char* name() const override { return "cuda"; }

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
  at::Tensor attention(const AttentionCall& call) override;
  std::string flash_refusal(at::Device device, const AttentionSpec& spec, at::ScalarType dtype) override;
  int64_t flash_rows() const override;
  void steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) override;
  std::tuple<at::Tensor, at::Tensor> steer_add_rms_norm(const SteerCall& call, bool paired, at::Tensor& delta,
                                                        at::Tensor& residual, const at::Tensor& weight,
                                                        double eps) override;
  void read_counters() override;
  std::unique_ptr<SiteTables> site_tables(at::Device device, int64_t slots, int64_t rows, int64_t bytes) override;
  std::unique_ptr<StepRecorder> step_recorder(at::Device device) override;
  void set_reproducible(bool on) override;
};

// Whether the calling thread asked for it.
bool reproducible();

}  // namespace chatspace::cuda
