// SPDX-License-Identifier: Apache-2.0
// Attention on the CPU: every index of a step is checked here, so that no table can lead outside the cache.
#include <algorithm>

#include "kernels/attention_cpu.h"
#include "kernels/profile.h"
#include "ops/cpu_backend.h"
#include "ops/cpu_tensors.h"

namespace chatspace {

at::Tensor CpuBackend::attention(const AttentionCall& call) {
  const ProfileScope profile(Operator::kAttention);
  const AttentionSpec& spec = *call.spec;
  TORCH_CHECK(spec.heads > 0 && spec.kv_heads > 0 && spec.head_dim > 0 && spec.heads % spec.kv_heads == 0,
              "chatspace: attention has ", spec.heads, " heads over ", spec.kv_heads, " kv heads of ", spec.head_dim);
  const at::Tensor qkv = rows_of(call.qkv, "qkv");
  const int64_t rows = qkv.size(0), hd = spec.head_dim;
  TORCH_CHECK(qkv.size(1) == (spec.heads + 2 * spec.kv_heads) * hd, "chatspace: qkv must be [T, ",
              (spec.heads + 2 * spec.kv_heads) * hd, "], got ", qkv.sizes());
  const at::Tensor q_norm = float_vector(call.q_norm, hd, "q_norm");
  const at::Tensor k_norm = float_vector(call.k_norm, hd, "k_norm");
  at::Tensor cos, sin;
  if (spec.rope >= 0 && spec.rotary_dim > 0) {
    TORCH_CHECK(spec.rotary_dim <= hd && spec.rotary_dim % 2 == 0, "chatspace: rotary dimension ", spec.rotary_dim,
                " does not fit a head of ", hd);
    cos = rows_of(call.cos, "cos");
    sin = rows_of(call.sin, "sin");
    const int64_t half = spec.rotary_dim / 2;
    TORCH_CHECK(cos.size(0) == rows && cos.size(1) == half && sin.sizes() == cos.sizes(),
                "chatspace: cos and sin must be [", rows, ", ", half, "], got ", cos.sizes(), " and ", sin.sizes());
  }
  const at::Tensor positions = int32_rows(call.positions, rows, "positions");
  const at::Tensor sequences = int32_rows(call.row_sequence, rows, "row_sequence");
  check_cpu(call.block_tables, "block_tables");
  TORCH_CHECK(call.block_tables.dim() == 2 && call.block_tables.scalar_type() == at::kInt,
              "chatspace: block_tables must be [sequences, blocks] int32");
  const at::Tensor tables = call.block_tables.contiguous();
  check_cpu(call.keys, "keys");
  check_cpu(call.values, "values");
  TORCH_CHECK(call.keys.dim() == 4 && call.keys.size(1) == spec.kv_heads && call.keys.size(2) == hd &&
                  call.keys.size(3) == kBlockTokens && call.keys.is_contiguous(),
              "chatspace: keys have the wrong shape ", call.keys.sizes());
  TORCH_CHECK(call.values.dim() == 4 && call.values.size(0) == call.keys.size(0) &&
                  call.values.size(1) == spec.kv_heads && call.values.size(2) == kBlockTokens &&
                  call.values.size(3) == hd && call.values.is_contiguous() &&
                  call.values.scalar_type() == call.keys.scalar_type(),
              "chatspace: values have the wrong shape ", call.values.sizes());
  at::Tensor out = empty_rows(rows, spec.heads * hd);
  if (rows == 0) return out;

  AttentionStep step{};
  step.positions = positions.const_data_ptr<int32_t>();
  step.row_sequence = sequences.const_data_ptr<int32_t>();
  step.block_tables = tables.const_data_ptr<int32_t>();
  step.table_stride = tables.size(1);
  const int64_t blocks = call.keys.size(0);
  // Padding, at the end of a step, is not for the kernels.
  int64_t live = rows;
  while (live > 0 && step.row_sequence[live - 1] < 0) --live;
  if (live < rows) out.narrow(0, live, rows - live).zero_();
  if (live == 0) return out;
  int32_t last_sequence = -1;
  int64_t checked = 0;  // blocks of this row's sequence known to be in range
  for (int64_t row = 0; row < live; ++row) {
    const int32_t sequence = step.row_sequence[row];
    const int64_t position = step.positions[row];
    TORCH_CHECK(sequence >= 0 && sequence < tables.size(0) && position >= 0 &&
                    position / kBlockTokens < tables.size(1),
                "chatspace: row ", row, " is at position ", position, " of sequence ", sequence,
                ", outside block tables of ", tables.sizes());
    if (sequence != last_sequence) checked = 0;
    last_sequence = sequence;
    // A window lets go of old blocks; their entries are never read.
    const int64_t first = spec.window > 0 ? std::max<int64_t>(0, position - spec.window + 1) / kBlockTokens : 0;
    for (int64_t b = std::max(first, checked); b <= position / kBlockTokens; ++b) {
      const int32_t block = step.block_tables[sequence * step.table_stride + b];
      TORCH_CHECK(block >= 0 && block < blocks, "chatspace: block ", block, " is outside a cache of ", blocks);
      checked = b + 1;
    }
  }
  step.rows = live;
  step.heads = spec.heads;
  step.kv_heads = spec.kv_heads;
  step.head_dim = hd;
  step.rotary_dim = cos.defined() ? spec.rotary_dim : 0;
  step.interleaved = spec.interleaved;
  step.scale = spec.scale;
  step.softcap = spec.softcap;
  step.window = spec.window;
  step.qkv = qkv.const_data_ptr<float>();
  step.qkv_stride = qkv.size(1);
  step.q_norm = pointer(q_norm);
  step.k_norm = pointer(k_norm);
  step.norm_eps = static_cast<float>(call.norm_eps);
  step.cos = pointer(cos);
  step.sin = pointer(sin);
  step.keys = call.keys.data_ptr();
  step.values = call.values.data_ptr();
  step.type = element_type_of(call.keys, "the cache");
  step.out = out.mutable_data_ptr<float>();
  attention_step(step);
  return out;
}

}  // namespace chatspace
