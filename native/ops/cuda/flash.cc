// SPDX-License-Identifier: Apache-2.0
// Prompt chunks by the library's flash attention (FlashAttention 2 in libtorch): queries, keys and values are
// brought together dense and in 16 bits (kernels/cuda/flash_plan.h), computed on tensor cores, and spread again.
#include <ATen/ops/_flash_attention_forward.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "kernels/cuda/flash_launch.h"
#include "kernels/cuda/flash_plan.h"
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/flash.h"
#include "ops/cuda/launches.h"

namespace chatspace::cuda {
namespace {

int capability_major(at::Device device) {
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()));
  return major;
}

// The plan's tables on the device. All layers of a step with the same window share one upload.
at::Tensor laid_out(const PromptChunks& chunks, int64_t window, const FlashPlan& plan, at::Device device) {
  at::Tensor& held = chunks.laid_out[window];
  if (held.defined()) return held;
  const auto count = static_cast<int64_t>(plan.table.size());
  const at::Tensor pinned = at::empty({count}, at::TensorOptions().dtype(at::kInt).pinned_memory(true));
  std::memcpy(pinned.mutable_data_ptr(), plan.table.data(), plan.table.size() * sizeof(int32_t));
  held = pinned.to(at::TensorOptions().dtype(at::kInt).device(device), /*non_blocking=*/true);
  return held;
}

}  // namespace

std::string CudaBackend::flash_refusal(at::Device device, const AttentionSpec& spec, at::ScalarType dtype) {
  const Dtype type = dtype == at::kBFloat16 ? Dtype::kBFloat16 : dtype == at::kHalf ? Dtype::kFloat16 : Dtype::kFloat32;
  return cuda::flash_refusal(spec.head_dim, spec.softcap, type, capability_major(device));
}

int64_t CudaBackend::flash_rows() const { return kFlashRows; }

bool attend_by_library(const AttentionCall& call, const AttentionArgs& args, const at::Tensor& out) {
  const AttentionSpec& spec = *call.spec;
  const at::Device device = out.device();
  if (call.chunks == nullptr || call.chunks->list.empty() || args.keys.dtype != args.out.dtype || reproducible() ||
      !cuda::flash_refusal(spec.head_dim, spec.softcap, args.keys.dtype, capability_major(device)).empty()) {
    return false;
  }
  const FlashPlan plan = plan_flash(call.chunks->list, spec.window);
  const at::Tensor table = laid_out(*call.chunks, spec.window, plan, device);
  const at::Tensor q = at::empty({plan.total_q, spec.heads, spec.head_dim}, out.options());
  const at::Tensor k = at::empty({plan.total_k, spec.kv_heads, spec.head_dim}, out.options());
  const at::Tensor v = at::empty_like(k);

  const int32_t* starts = table.const_data_ptr<int32_t>();
  FlashArgs flash{};
  flash.sequences = plan.sequences;
  flash.total_q = plan.total_q;
  flash.max_blocks = plan.max_blocks;
  flash.heads = spec.heads;
  flash.kv_heads = spec.kv_heads;
  flash.head_dim = spec.head_dim;
  flash.dtype = args.keys.dtype;
  flash.query_starts = starts;
  flash.key_starts = starts + plan.key_starts();
  flash.sequence_ids = starts + plan.sequence_ids();
  flash.first_rows = starts + plan.first_rows();
  flash.first_keys = starts + plan.first_keys();
  flash.block_tables = args.block_tables;
  flash.table_stride = args.table_stride;
  flash.keys = static_cast<const uint16_t*>(args.keys.data);
  flash.values = static_cast<const uint16_t*>(args.values.data);
  flash.queries = args.queries;
  flash.dense_queries = static_cast<uint16_t*>(q.mutable_data_ptr());
  flash.dense_keys = static_cast<uint16_t*>(k.mutable_data_ptr());
  flash.dense_values = static_cast<uint16_t*>(v.mutable_data_ptr());
  flash.out = static_cast<uint16_t*>(args.out.data);
  const cudaStream_t stream = stream_of(out);
  C10_CUDA_CHECK(flash_gather(flash, stream));

  const bool windowed = plan.window_left >= 0;
  const auto bound = [&](int64_t keys) { return windowed ? std::optional<int64_t>(keys) : std::nullopt; };
  const at::Tensor results = std::get<0>(at::_flash_attention_forward(
      q, k, v, table.narrow(0, 0, plan.sequences + 1), table.narrow(0, plan.key_starts(), plan.sequences + 1),
      plan.max_q, plan.max_k, /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, spec.scale,
      bound(plan.window_left), bound(0)));
  const at::Tensor dense_results = results.contiguous();
  TORCH_CHECK(dense_results.sizes() == q.sizes() && dense_results.scalar_type() == q.scalar_type(),
              "chatspace cuda: flash attention returned ", dense_results.sizes(), ", expected ", q.sizes());
  flash.dense_results = static_cast<const uint16_t*>(dense_results.const_data_ptr());
  C10_CUDA_CHECK(flash_spread(flash, stream));
  call.chunks->served += 1;
  return true;
}

}  // namespace chatspace::cuda
