// SPDX-License-Identifier: Apache-2.0
// Paged attention of the CUDA backend: one kernel that norms, rotates and writes the cache, then
// attention for rows alone in their sequence (decode) and for rows of prompt chunks. Which row is
// which is found on the device, so that nothing is read back.
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/flash.h"
#include "ops/cuda/launches.h"

namespace chatspace::cuda {

at::Tensor CudaBackend::attention(const AttentionCall& call) {
  const AttentionSpec& spec = *call.spec;
  const c10::cuda::CUDAGuard guard(call.qkv.device());
  const int64_t rows = call.qkv.size(0);
  const int64_t sequences = call.block_tables.size(0);
  TORCH_CHECK(spec.head_dim >= 1 && spec.head_dim <= kMaxHeadDim, "chatspace cuda attention: expected head_dim 1 to ",
              kMaxHeadDim, ", got ", spec.head_dim);
  TORCH_CHECK(spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0,
              "chatspace cuda attention: expected heads to be a multiple of kv_heads, got ", spec.heads, " and ",
              spec.kv_heads);
  TORCH_CHECK(call.qkv.size(1) == (spec.heads + 2 * spec.kv_heads) * spec.head_dim,
              "chatspace cuda attention: expected qkv rows of ", (spec.heads + 2 * spec.kv_heads) * spec.head_dim,
              ", got ", call.qkv.size(1));
  TORCH_CHECK(call.keys.is_contiguous() && call.values.is_contiguous() &&
                  call.keys.scalar_type() == call.values.scalar_type(),
              "chatspace cuda attention: expected a dense cache of one dtype");
  TORCH_CHECK(sequences <= rows, "chatspace cuda attention: expected at least one row a sequence, got ", rows,
              " rows of ", sequences, " sequences");
  static_assert(kBlock == kBlockTokens);

  const at::Tensor qkv = call.qkv.contiguous();
  const OptionalTensor q_norm = dense(call.q_norm);
  const OptionalTensor k_norm = dense(call.k_norm);
  const at::Tensor positions = call.positions.contiguous();
  const at::Tensor row_sequence = call.row_sequence.contiguous();
  // Rows of wider tables are read in place.
  const at::Tensor block_tables =
      call.block_tables.stride(1) == 1 ? call.block_tables : call.block_tables.contiguous();
  const int64_t rotary = spec.rope < 0 ? 0 : spec.rotary_dim;
  const at::Tensor cosines = rotary > 0 ? call.cos.contiguous() : at::Tensor();
  const at::Tensor sines = rotary > 0 ? call.sin.contiguous() : at::Tensor();
  const auto floats = qkv.options().dtype(at::kFloat);
  const at::Tensor queries = at::empty({rows, spec.heads, spec.head_dim}, floats);
  const at::Tensor single = at::empty({sequences}, qkv.options().dtype(at::kInt));
  // A single row's parts are merged in another order than a chunk's blocks are absorbed, and which of the two
  // a prompt's row is depends on how its prompt was cut.
  const bool all_chunks = reproducible();
  const int64_t splits = all_chunks ? 1 : attention_splits(block_tables.size(1));
  at::Tensor partial;
  if (splits > 1) partial = at::empty({sequences, spec.heads, splits, spec.head_dim + 2}, floats);
  at::Tensor out = at::empty({rows, spec.heads * spec.head_dim}, qkv.options());

  AttentionArgs args{};
  args.rows = rows;
  args.sequences = sequences;
  args.max_blocks = block_tables.size(1);
  args.heads = spec.heads;
  args.kv_heads = spec.kv_heads;
  args.head_dim = spec.head_dim;
  args.rotary_dim = rotary;
  args.interleaved = spec.interleaved;
  args.scale = spec.scale;
  args.softcap = spec.softcap;
  args.window = spec.window;
  args.norm_eps = static_cast<float>(call.norm_eps);
  args.qkv = reads(qkv);
  args.q_norm = reads(q_norm);
  args.k_norm = reads(k_norm);
  args.cos = rotary > 0 ? cosines.const_data_ptr<float>() : nullptr;
  args.sin = rotary > 0 ? sines.const_data_ptr<float>() : nullptr;
  args.positions = positions.const_data_ptr<int32_t>();
  args.row_sequence = row_sequence.const_data_ptr<int32_t>();
  args.block_tables = block_tables.const_data_ptr<int32_t>();
  args.table_stride = block_tables.stride(0);
  args.keys = writes(call.keys);
  args.values = writes(call.values);
  args.queries = queries.mutable_data_ptr<float>();
  args.single = single.mutable_data_ptr<int32_t>();
  args.all_chunks = all_chunks;
  args.splits = splits;
  args.split_blocks = kSplitBlocks;
  args.partial = partial.defined() ? partial.mutable_data_ptr<float>() : nullptr;
  args.out = writes(out);

  const cudaStream_t stream = stream_of(qkv);
  C10_CUDA_CHECK(rotary_and_cache(args, stream));
  if (!all_chunks) C10_CUDA_CHECK(attend_single_rows(args, stream));
  // As many rows as sequences means one row each.
  if (all_chunks || rows > sequences) {
    if (!attend_by_library(call, args, out)) C10_CUDA_CHECK(attend_chunks(args, stream));
  }
  return out;
}

}  // namespace chatspace::cuda
