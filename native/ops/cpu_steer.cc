// SPDX-License-Identifier: Apache-2.0
// Steering on the CPU: which of a pair is written, and rows the kernel cannot address.
#include "kernels/profile.h"
#include "kernels/steer_cpu.h"
#include "ops/cpu_backend.h"
#include "ops/cpu_tensors.h"

namespace chatspace {
namespace {

// A tensor the steering kernel can address: rows apart by one stride, elements adjacent.
bool addressable(const at::Tensor& t) { return t.stride(1) == 1 || t.size(1) <= 1; }

}  // namespace

void CpuBackend::steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) {
  const ProfileScope profile(Operator::kSteer);
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

}  // namespace chatspace
