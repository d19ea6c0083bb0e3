// SPDX-License-Identifier: Apache-2.0
// Steering on CUDA: the step's tables become one block of bytes, go up in one copy from pinned memory
// (torch's host allocator keeps the block until the copy is done), and one kernel does the site. Rows
// with nothing to do are left out of the tables, so cost follows the rows that act.
#include <algorithm>
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

// The rows that have operations or captures, and the captures in the rows' order.
void collect_rows(const SteerCall& call, std::vector<SteerRow>& rows, std::vector<float*>& captures) {
  std::vector<std::vector<float*>> captured(static_cast<size_t>(call.captures > 0 ? call.rows : 0));
  for (int64_t i = 0; i < call.captures; ++i) {
    const int32_t row = call.capture_rows[i];
    TORCH_CHECK(row >= 0 && row < call.rows, "chatspace cuda steer: expected a capture of row 0 to ", call.rows - 1,
                ", got ", row);
    captured[static_cast<size_t>(row)].push_back(call.capture_out[i]);
  }
  for (int64_t row = 0; row < call.rows; ++row) {
    const int32_t begin = call.row_offsets[row];
    const int32_t end = call.row_offsets[row + 1];
    const auto first = static_cast<int32_t>(captures.size());
    if (!captured.empty()) {
      const std::vector<float*>& mine = captured[static_cast<size_t>(row)];
      captures.insert(captures.end(), mine.begin(), mine.end());
    }
    const auto last = static_cast<int32_t>(captures.size());
    if (begin < end || first < last) rows.push_back({row, begin, end, first, last});
  }
}

}  // namespace

void CudaBackend::steer(const SteerCall& call, at::Tensor& delta, at::Tensor& residual) {
  std::vector<SteerRow> rows;
  std::vector<float*> captures;
  collect_rows(call, rows, captures);
  if (rows.empty()) return;
  TORCH_CHECK(delta.numel() == call.rows * call.hidden, "chatspace cuda steer: expected ", call.rows, " rows of ",
              call.hidden, ", got a tensor of shape ", delta.sizes());
  TORCH_CHECK(!residual.defined() || residual.numel() == delta.numel(),
              "chatspace cuda steer: expected delta and residual of one shape, got ", delta.sizes(), " and ",
              residual.defined() ? residual.sizes() : at::IntArrayRef());
  const c10::cuda::CUDAGuard guard(delta.device());

  // Operations of the call, each with a counter slot of its own on the device.
  const auto op_entries = static_cast<size_t>(call.row_offsets[call.rows]);
  int32_t op_count = 0;
  for (size_t i = 0; i < op_entries; ++i) op_count = std::max(op_count, call.op_index[i] + 1);
  std::vector<SteerOp> ops(call.ops, call.ops + op_count);
  std::vector<SteerCounter*> hosts(ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    hosts[i] = call.counters + ops[i].counter;
    ops[i].counter = static_cast<int32_t>(i);
  }

  TableBlock block;
  const size_t rows_at = block.add(rows.data(), rows.size());
  const size_t index_at = block.add(call.op_index, op_entries);
  const size_t ops_at = block.add(ops.data(), ops.size());
  const size_t captures_at = block.add(captures.data(), captures.size());
  const at::Tensor tables = block.upload(delta.device());
  const auto* base = static_cast<const uint8_t*>(tables.const_data_ptr());

  at::Tensor dense_delta = delta.contiguous();
  at::Tensor dense_residual = residual.defined() ? residual.contiguous() : at::Tensor();
  at::Tensor scratch;
  if (call.hidden > kSteerSharedFloats) {
    scratch = at::empty({static_cast<int64_t>(rows.size()), call.hidden}, delta.options().dtype(at::kFloat));
  }

  SteerArgs args{};
  args.rows = reinterpret_cast<const SteerRow*>(base + rows_at);
  args.op_index = reinterpret_cast<const int32_t*>(base + index_at);
  args.ops = reinterpret_cast<const SteerOp*>(base + ops_at);
  args.captures = reinterpret_cast<float* const*>(base + captures_at);
  args.counters = thread_counters(delta.device()).take(hosts);
  args.active = static_cast<int64_t>(rows.size());
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
