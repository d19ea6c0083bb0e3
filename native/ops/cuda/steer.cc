// SPDX-License-Identifier: Apache-2.0
// Steering on CUDA: the step's tables become one block of bytes, go up in one copy from pinned memory
// (torch's host allocator keeps the block until the copy is done), and one kernel does the site. Cost
// follows the rows that act: the tables list no others.
#include <cstring>
#include <vector>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/launches.h"
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

}  // namespace

void CudaBackend::steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) {
  if (call.active == 0) return;
  TORCH_CHECK(delta.numel() == call.rows * call.hidden, "chatspace cuda steer: expected ", call.rows, " rows of ",
              call.hidden, ", got a tensor of shape ", delta.sizes());
  TORCH_CHECK(!residual.defined() || residual.numel() == delta.numel(),
              "chatspace cuda steer: expected delta and residual of one shape, got ", delta.sizes(), " and ",
              residual.defined() ? residual.sizes() : at::IntArrayRef());
  const c10::cuda::CUDAGuard guard(delta.device());

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
  const at::Tensor tables = block.upload(delta.device());
  const auto* base = static_cast<const uint8_t*>(tables.const_data_ptr());

  at::Tensor dense_delta = delta.contiguous();
  at::Tensor dense_residual = residual.defined() ? residual.contiguous() : at::Tensor();
  at::Tensor scratch;
  if (steer_floats(call.hidden) > kSteerSharedFloats) {
    scratch = at::empty({call.active, steer_floats(call.hidden)}, delta.options().dtype(at::kFloat));
  }

  SteerArgs args{};
  args.rows = reinterpret_cast<const SteerRow*>(base + rows_at);
  args.entries = reinterpret_cast<const SteerEntry*>(base + entries_at);
  args.ops = reinterpret_cast<const SteerOp*>(base + ops_at);
  args.captures = reinterpret_cast<float* const*>(base + captures_at);
  args.readings = reinterpret_cast<const SteerReading*>(base + readings_at);
  args.counters = thread_counters(delta.device()).take(hosts);
  args.active = call.active;
  args.hidden = call.hidden;
  args.delta = writes(dense_delta);
  if (dense_residual.defined()) args.residual = writes(dense_residual);
  args.to_residual =
      dense_residual.defined() && delta.scalar_type() != at::kFloat && residual.scalar_type() == at::kFloat;
  args.scratch = scratch.defined() ? scratch.mutable_data_ptr<float>() : nullptr;
  C10_CUDA_CHECK(cuda::steer(args, stream_of(delta)));

  // A stranger's module may return a view that is not dense; what was steered is then a copy of it.
  if (!dense_delta.is_same(delta) && !args.to_residual) delta.copy_(dense_delta);
  if (args.to_residual && !dense_residual.is_same(residual)) residual.copy_(dense_residual);
}

void CudaBackend::read_counters() { read_thread_counters(); }

}  // namespace chatspace::cuda
