// SPDX-License-Identifier: Apache-2.0
// Steering on CUDA: the step's tables become one block of bytes, go up in one copy from pinned memory
// (torch's host allocator keeps the block until the copy is done), and one kernel does the site. Cost
// follows the rows that act: the tables list no others.
#include <cstring>
#include <vector>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/norm_call.h"
#include "ops/cuda/steer_counters.h"

namespace chatspace::cuda {
namespace {

// Tables laid out one after the other, each 16-byte aligned.
class TableBlock {
 public:
  // Returns the offset of the copy.
  template <class T>
  size_t add(const T* data, size_t count) {
    const size_t offset = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(offset + count * sizeof(T));
    if (count > 0) std::memcpy(bytes_.data() + offset, data, count * sizeof(T));
    return offset;
  }
  at::Tensor upload(c10::Device device) const {
    const auto size = static_cast<int64_t>(bytes_.size());
    at::Tensor pinned = at::empty({size}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    std::memcpy(pinned.mutable_data_ptr(), bytes_.data(), bytes_.size());
    return pinned.to(at::TensorOptions().dtype(at::kByte).device(device), /*non_blocking=*/true);
  }

 private:
  std::vector<uint8_t> bytes_;
};

// A site's work prepared for its launch. Holds the tensors that `args` points into: lives until it is queued.
struct SteerLaunch {
  at::Tensor tables;
  at::Tensor delta;     // dense, maybe a copy
  at::Tensor residual;
  at::Tensor scratch;
  SteerArgs args{};
};

SteerLaunch prepare(const SteerCall& call, const at::Tensor& delta, const at::Tensor& residual) {
  TORCH_CHECK(delta.numel() == call.rows * call.hidden, "chatspace cuda steer: expected ", call.rows, " rows of ",
              call.hidden, ", got a tensor of shape ", delta.sizes());
  TORCH_CHECK(!residual.defined() || residual.numel() == delta.numel(),
              "chatspace cuda steer: expected delta and residual of one shape, got ", delta.sizes(), " and ",
              residual.defined() ? residual.sizes() : at::IntArrayRef());

  // Each operation gets a counter slot of its own on the device.
  std::vector<SteerOp> ops(call.ops, call.ops + call.op_count);
  std::vector<SteerCounter*> hosts(ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    hosts[i] = call.counters + ops[i].counter;
    ops[i].counter = static_cast<int32_t>(i);
  }

  TableBlock block;
  const size_t rows_at = block.add(call.active_rows, static_cast<size_t>(call.active));
  const size_t entries_at = block.add(call.entries, static_cast<size_t>(call.entry_count));
  const size_t ops_at = block.add(ops.data(), ops.size());
  const size_t captures_at = block.add(call.captures, static_cast<size_t>(call.capture_count));
  const size_t readings_at = block.add(call.readings, static_cast<size_t>(call.reading_count));

  SteerLaunch launch;
  launch.tables = block.upload(delta.device());
  launch.delta = delta.contiguous();
  if (residual.defined()) launch.residual = residual.contiguous();
  if (steer_floats(call.hidden) > kSteerSharedFloats) {
    launch.scratch = at::empty({call.active, steer_floats(call.hidden)}, delta.options().dtype(at::kFloat));
  }
  const auto* base = static_cast<const uint8_t*>(launch.tables.const_data_ptr());
  SteerArgs& args = launch.args;
  args.rows = reinterpret_cast<const SteerRow*>(base + rows_at);
  args.entries = reinterpret_cast<const SteerEntry*>(base + entries_at);
  args.ops = reinterpret_cast<const SteerOp*>(base + ops_at);
  args.captures = reinterpret_cast<float* const*>(base + captures_at);
  args.readings = reinterpret_cast<const SteerReading*>(base + readings_at);
  args.counters = thread_counters(delta.device()).take(hosts);
  args.active = call.active;
  args.hidden = call.hidden;
  args.delta = writes(launch.delta);
  if (residual.defined()) args.residual = writes(launch.residual);
  args.to_residual = residual.defined() && delta.scalar_type() != at::kFloat && residual.scalar_type() == at::kFloat;
  args.scratch = launch.scratch.defined() ? launch.scratch.mutable_data_ptr<float>() : nullptr;
  return launch;
}

}  // namespace

void CudaBackend::steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) {
  if (call.active == 0) return;
  const c10::cuda::CUDAGuard guard(delta.device());
  const SteerLaunch launch = prepare(call, delta, residual);
  C10_CUDA_CHECK(cuda::steer(launch.args, stream_of(delta)));
  // A stranger's module may return a view that is not dense; what was steered is then a copy of it.
  if (!launch.delta.is_same(delta) && !launch.args.to_residual) delta.copy_(launch.delta);
  if (launch.args.to_residual && !launch.residual.is_same(residual)) residual.copy_(launch.residual);
}

std::tuple<at::Tensor, at::Tensor> CudaBackend::steer_add_rms_norm(const SteerCall& call, bool paired,
                                                                   at::Tensor& delta, at::Tensor& residual,
                                                                   const at::Tensor& weight, double eps) {
  if (call.active == 0) return add_rms_norm(delta, residual, weight, eps);
  // The one kernel reads where it has just written: a copy on either side would part the two.
  const bool in_place = delta.is_contiguous() && residual.defined() && residual.is_contiguous() &&
                        residual.scalar_type() == at::kFloat && weight.numel() == call.hidden;
  if (!in_place) return Backend::steer_add_rms_norm(call, paired, delta, residual, weight, eps);
  const c10::cuda::CUDAGuard guard(delta.device());
  const SteerLaunch steering = prepare(call, delta, paired ? residual : at::Tensor());
  const NormCall norm = NormCall::prepare(delta, residual, weight, std::nullopt, eps, /*want_sum=*/true);
  C10_CUDA_CHECK(cuda::steer_norm({steering.args, norm.args}, stream_of(delta)));
  return {norm.sum, norm.normed};
}

void CudaBackend::read_counters() { read_thread_counters(); }

}  // namespace chatspace::cuda
