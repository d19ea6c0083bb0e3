// SPDX-License-Identifier: Apache-2.0
// The steering tables of a recorded step on a device: one block of bytes for all sites, filled by one copy
// from pinned memory, read back by one.
#include <cstring>

#include "kernels/cuda/site_tables.h"
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/norm_call.h"

namespace chatspace::cuda {
namespace {

class CudaSiteTables final : public SiteTables {
 public:
  CudaSiteTables(at::Device device, int64_t slots, int64_t rows, int64_t bytes)
      : device_(device), rows_(rows), slots_(slots), layout_(slots, bytes) {
    const c10::cuda::CUDAGuard guard(device);
    // Read by recorded kernels: must live, and stay where it is, as long as they do.
    block_ = at::zeros({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  }

  bool fill(const std::vector<SiteWork>& work) override {
    for (const SiteWork& site : work) {
      TORCH_CHECK(site.slot >= 0 && site.slot < slots_ && site.call.active <= rows_,
                  "chatspace cuda: slot ", site.slot, " of ", slots_, " with ", site.call.active, " rows of ", rows_);
    }
    if (!layout_.fill(work)) return false;
    const c10::cuda::CUDAGuard guard(device_);
    const auto size = static_cast<int64_t>(layout_.bytes().size());
    const at::Tensor pinned = at::empty({size}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    std::memcpy(pinned.mutable_data_ptr(), layout_.bytes().data(), layout_.bytes().size());
    block_.narrow(0, 0, size).copy_(pinned, /*non_blocking=*/true);
    return true;
  }

  void steer(int64_t slot, at::Tensor& delta, at::Tensor& residual) override {
    const c10::cuda::CUDAGuard guard(delta.device());
    at::Tensor scratch;
    C10_CUDA_CHECK(cuda::steer_slot(slot_args(slot, delta, residual, scratch), stream_of(delta)));
  }

  std::tuple<at::Tensor, at::Tensor> steer_add_rms_norm(int64_t slot, bool paired, at::Tensor& delta,
                                                        at::Tensor& residual, const at::Tensor& weight,
                                                        double eps) override {
    const c10::cuda::CUDAGuard guard(delta.device());
    TORCH_CHECK(residual.defined() && residual.scalar_type() == at::kFloat && residual.is_contiguous() &&
                    residual.sizes() == delta.sizes(),
                "chatspace cuda: a recorded norm needs a dense float32 residual of shape ", delta.sizes());
    at::Tensor scratch;
    const SlotArgs site = slot_args(slot, delta, paired ? residual : at::Tensor(), scratch);
    const NormCall norm = NormCall::prepare(delta, residual, weight, std::nullopt, eps, /*want_sum=*/true);
    C10_CUDA_CHECK(cuda::steer_norm_slot({site, norm.args}, stream_of(delta)));
    return {norm.sum, norm.normed};
  }

  std::vector<int64_t> read() override {
    const c10::cuda::CUDAGuard guard(device_);
    const at::Tensor head = block_.narrow(0, 0, layout_.read_back()).cpu();  // waits for this stream
    return layout_.take(static_cast<const uint8_t*>(head.const_data_ptr()));
  }

 private:
  // scratch: takes the rows' working memory where they need some; lives until the launch is queued.
  SlotArgs slot_args(int64_t slot, const at::Tensor& delta, const at::Tensor& residual, at::Tensor& scratch) {
    const int64_t hidden = delta.size(-1);
    // A copy would be steered and thrown away at every replay.
    TORCH_CHECK(delta.is_contiguous() && (!residual.defined() || residual.is_contiguous()),
                "chatspace cuda: a recorded site needs dense rows, got strides ", delta.strides());
    TORCH_CHECK(!residual.defined() || residual.numel() == delta.numel(), "chatspace cuda: delta is ", delta.sizes(),
                ", residual is ", residual.defined() ? residual.sizes() : at::IntArrayRef());
    SlotArgs args{};
    args.tables = static_cast<uint8_t*>(block_.mutable_data_ptr());
    args.slot = slot;
    args.rows = rows_of(delta, hidden);
    args.hidden = hidden;
    args.delta = writes(delta);
    if (residual.defined()) args.residual = writes(residual);
    args.to_residual =
        residual.defined() && delta.scalar_type() != at::kFloat && residual.scalar_type() == at::kFloat;
    if (steer_floats(hidden) > kSteerSharedFloats) {
      scratch = at::empty({args.rows, steer_floats(hidden)}, delta.options().dtype(at::kFloat));
      args.scratch = scratch.mutable_data_ptr<float>();
    }
    return args;
  }

  at::Device device_;
  int64_t rows_;
  int64_t slots_;
  SiteTableBlock layout_;
  at::Tensor block_;
};

}  // namespace

std::unique_ptr<SiteTables> CudaBackend::site_tables(at::Device device, int64_t slots, int64_t rows, int64_t bytes) {
  return std::make_unique<CudaSiteTables>(device, slots, rows, bytes);
}

}  // namespace chatspace::cuda
