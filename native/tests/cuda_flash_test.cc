// SPDX-License-Identifier: Apache-2.0
// Prompt chunks brought together for the library's flash attention: what it would see must be what each row may
// see, and every bit must come from the right place. The library itself runs on a GPU only: its rule of
// visibility is written out here, as its documentation states it, and meets the CPU's operator.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/flash_gather.cuh"
#include "kernels/cuda/flash_plan.h"
#include "ops/backend.h"
#include "tests/check.h"
#include "tests/cuda_random_steer.h"
#include "tests/emulated_block.h"

namespace chatspace::testing {
namespace {

// A step of random chunks with lone rows between them, on a cache full of random bits.
struct FlashStep {
  std::vector<PromptChunk> chunks;
  int64_t rows = 0;
  int64_t sequences = 0;
  at::Tensor tables;  // [sequences, blocks]
  at::Tensor keys, values;

  FlashStep(std::mt19937& random, int64_t kv_heads, int64_t dim, at::ScalarType type) {
    for (int i = 0; i < 4; ++i) {
      const bool chunk = i == 1 || random() % 3 != 0;
      const int64_t count = chunk ? 2 + static_cast<int64_t>(random() % 50) : 1;
      const int64_t before = random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % 100);
      if (chunk) chunks.push_back({sequences, rows, count, before + count});
      rows += count;
      ++sequences;
    }
    constexpr int64_t kBlocksEach = 5;  // 160 positions
    const int64_t blocks = sequences * kBlocksEach;
    tables = at::randperm(blocks, at::kInt).view({sequences, kBlocksEach});
    keys = at::randint(-32768, 32767, {blocks, kv_heads, dim, kBlockTokens}, at::kShort).view(type);
    values = at::randint(-32768, 32767, {blocks, kv_heads, kBlockTokens, dim}, at::kShort).view(type);
  }
};

const uint16_t* bits(const at::Tensor& t) { return static_cast<const uint16_t*>(t.const_data_ptr()); }
uint16_t* bits_of(const at::Tensor& t) { return static_cast<uint16_t*>(t.mutable_data_ptr()); }

cuda::FlashArgs flash_args(const cuda::FlashPlan& plan, const AttentionSpec& spec, const FlashStep& step) {
  const int32_t* table = plan.table.data();
  cuda::FlashArgs args{};
  args.sequences = plan.sequences;
  args.total_q = plan.total_q;
  args.max_blocks = plan.max_blocks;
  args.heads = spec.heads;
  args.kv_heads = spec.kv_heads;
  args.head_dim = spec.head_dim;
  args.dtype = dtype_of(step.keys);
  args.query_starts = table;
  args.key_starts = table + plan.key_starts();
  args.sequence_ids = table + plan.sequence_ids();
  args.first_rows = table + plan.first_rows();
  args.first_keys = table + plan.first_keys();
  args.block_tables = step.tables.const_data_ptr<int32_t>();
  args.table_stride = step.tables.stride(0);
  args.keys = bits(step.keys);
  args.values = bits(step.values);
  return args;
}

// The two launches before the library: blocks of the grid in any order give the same.
void emulate_gather(const cuda::FlashArgs& args, uint32_t seed) {
  EmulatedBlock block(64, seed);
  std::vector<uint16_t> tile(static_cast<size_t>(cuda::flash_tile_stride(args.head_dim) * cuda::kBlock), 0x7e7e);
  for (int64_t chunk = args.sequences - 1; chunk >= 0; --chunk) {
    for (int64_t head = 0; head < args.kv_heads; ++head) {
      for (int64_t at = 0; at < args.max_blocks; ++at) {
        block.run([&](EmulatedBlock::Lane& lane) {
          cuda::gather_keys_and_values(lane, args, at, head, chunk, tile.data());
        });
      }
    }
  }
  for (int64_t row = 0; row < args.total_q; ++row) {
    block.run([&](EmulatedBlock::Lane& lane) {
      args.dtype == cuda::Dtype::kBFloat16 ? cuda::pack_query_row<cuda::BFloat16>(lane, args, row)
                                           : cuda::pack_query_row<cuda::Float16>(lane, args, row);
    });
  }
}

// What the library computes from dense rows: causal from the end of the keys, a window to the left, query heads
// in groups over the key heads. In float64, rounded once.
at::Tensor library(const cuda::FlashPlan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   double scale) {
  const int64_t group = q.size(1) / k.size(1);
  at::Tensor out = at::empty_like(q);
  for (int64_t i = 0; i < plan.sequences; ++i) {
    const auto at_table = [&](int64_t index) { return static_cast<int64_t>(plan.table[static_cast<size_t>(index)]); };
    const int64_t q0 = at_table(i), n = at_table(i + 1) - q0;
    const int64_t k0 = at_table(plan.key_starts() + i), m = at_table(plan.key_starts() + i + 1) - k0;
    CHECK_THAT(n <= plan.max_q && m <= plan.max_k && n <= m);
    const auto wide = [&](const at::Tensor& t, int64_t first, int64_t count) {
      return t.narrow(0, first, count).to(at::kDouble).transpose(0, 1);
    };
    const at::Tensor queries = wide(q, q0, n);
    const at::Tensor key = wide(k, k0, m).repeat_interleave(group, 0), value = wide(v, k0, m).repeat_interleave(group, 0);
    const at::Tensor row = at::arange(n).unsqueeze(1) + (m - n), column = at::arange(m).unsqueeze(0);
    at::Tensor hidden = column > row;
    if (plan.window_left >= 0) hidden = hidden.logical_or(column < row - plan.window_left);
    const at::Tensor scores = at::matmul(queries, key.transpose(1, 2)) * scale;
    const at::Tensor weights = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1);
    out.narrow(0, q0, n).copy_(at::matmul(weights, value).transpose(0, 1));
  }
  return out;
}

}  // namespace

TEST(cuda_flash_plan_lets_a_row_see_its_own_positions_and_no_other) {
  std::mt19937 random(41);
  for (int round = 0; round < 200; ++round) {
    std::vector<PromptChunk> chunks;
    int64_t row = static_cast<int64_t>(random() % 3);
    for (auto count = 1 + random() % 4; count > 0; --count) {
      const int64_t rows = 2 + static_cast<int64_t>(random() % 40);
      chunks.push_back({static_cast<int64_t>(random() % 9), row, rows, rows + static_cast<int64_t>(random() % 70)});
      row += rows + static_cast<int64_t>(random() % 3);
    }
    const int64_t window = round % 2 == 0 ? 0 : 1 + static_cast<int64_t>(random() % 80);
    const cuda::FlashPlan plan = cuda::plan_flash(chunks, window);
    int64_t q = 0, k = 0, longest_q = 0, longest_k = 0;
    for (size_t i = 0; i < chunks.size(); ++i) {
      const PromptChunk& chunk = chunks[i];
      const auto at_table = [&](int64_t index) { return plan.table[static_cast<size_t>(index)]; };
      const auto n = static_cast<int64_t>(i);
      CHECK_THAT(at_table(n) == q && at_table(plan.key_starts() + n) == k);
      CHECK_THAT(at_table(plan.sequence_ids() + n) == chunk.sequence && at_table(plan.first_rows() + n) == chunk.first_row);
      const int64_t first_key = at_table(plan.first_keys() + n);
      const int64_t keys = at_table(plan.key_starts() + n + 1) - k;
      CHECK_THAT(first_key + keys == chunk.context);
      for (int64_t r = 0; r < chunk.rows; ++r) {
        const int64_t position = chunk.context - chunk.rows + r;
        const int64_t first_seen = window > 0 && position >= window ? position - window + 1 : 0;
        // The library's rule, in keys of this sequence.
        const int64_t last = r + keys - chunk.rows;
        const int64_t first = plan.window_left >= 0 && last > plan.window_left ? last - plan.window_left : 0;
        CHECK_THAT(first_key + last == position && first_key + first == first_seen);
      }
      CHECK_THAT((chunk.context - 1) / cuda::kBlock - first_key / cuda::kBlock < plan.max_blocks);
      q += chunk.rows;
      k += keys;
      longest_q = std::max(longest_q, chunk.rows);
      longest_k = std::max(longest_k, keys);
    }
    CHECK_THAT(plan.total_q == q && plan.total_k == k && plan.max_q == longest_q && plan.max_k == longest_k);
    CHECK_THAT(plan.table[static_cast<size_t>(plan.sequences)] == q);
  }
}

TEST(cuda_flash_gather_moves_every_bit_to_its_place) {
  at::manual_seed(42);
  std::mt19937 random(42);
  int64_t elements = 0;
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    for (const int64_t dim : {8, 40, 64, 256}) {
      for (const int64_t window : {0, 37}) {
        AttentionSpec spec;
        spec.kv_heads = 2;
        spec.heads = 6;
        spec.head_dim = dim;
        const FlashStep step(random, spec.kv_heads, dim, type);
        const cuda::FlashPlan plan = cuda::plan_flash(step.chunks, window);
        const at::Tensor queries = at::randn({step.rows, spec.heads, dim}) * 100;
        const at::Tensor dense_q = at::empty({plan.total_q, spec.heads, dim}, type);
        const at::Tensor dense_k = at::empty({plan.total_k, spec.kv_heads, dim}, type), dense_v = at::empty_like(dense_k);
        // One position more than there is: what is written behind the end shows.
        const at::Tensor guarded_k = at::full({plan.total_k + 1, spec.kv_heads, dim}, 7).to(type);
        const at::Tensor guarded_v = guarded_k.clone();
        cuda::FlashArgs args = flash_args(plan, spec, step);
        args.queries = queries.const_data_ptr<float>();
        args.dense_queries = bits_of(dense_q);
        args.dense_keys = bits_of(guarded_k);
        args.dense_values = bits_of(guarded_v);
        emulate_gather(args, random());

        int64_t q = 0, k = 0;
        for (const PromptChunk& chunk : step.chunks) {
          CHECK_SAME_BITS(dense_q.narrow(0, q, chunk.rows), queries.narrow(0, chunk.first_row, chunk.rows).to(type), "queries");
          q += chunk.rows;
          const int64_t first = chunk.context - chunk.rows;
          for (int64_t at = window > 0 ? std::max<int64_t>(0, first - window + 1) : 0; at < chunk.context; ++at, ++k) {
            const auto block = step.tables[chunk.sequence][at / kBlockTokens].item<int64_t>();
            dense_k[k].copy_(step.keys[block].select(2, at % kBlockTokens));
            dense_v[k].copy_(step.values[block].select(1, at % kBlockTokens));
          }
        }
        CHECK_THAT(q == plan.total_q && k == plan.total_k);
        CHECK_SAME_BITS(guarded_k.narrow(0, 0, k), dense_k, "keys");
        CHECK_SAME_BITS(guarded_v.narrow(0, 0, k), dense_v, "values");
        CHECK_THAT((guarded_k[k] == 7).all().item<bool>() && (guarded_v[k] == 7).all().item<bool>());
        elements += 2 * dense_k.numel() + dense_q.numel();

        // And back: rows of chunks take their result, the others keep what another kernel wrote.
        const at::Tensor results = at::randint(-32768, 32767, dense_q.sizes(), at::kShort).view(type);
        const at::Tensor out = at::randint(-32768, 32767, queries.sizes(), at::kShort).view(type);
        at::Tensor want = out.clone();
        args.dense_results = bits(results);
        args.out = bits_of(out);
        EmulatedBlock block(64, random());
        for (int64_t row = 0; row < plan.total_q; ++row) {
          block.run([&](EmulatedBlock::Lane& lane) { cuda::unpack_result_row(lane, args, row); });
        }
        q = 0;
        for (const PromptChunk& chunk : step.chunks) {
          want.narrow(0, chunk.first_row, chunk.rows).copy_(results.narrow(0, q, chunk.rows));
          q += chunk.rows;
        }
        CHECK_SAME_BITS(out, want, "results");
      }
    }
  }
  std::printf("  %lld elements, every bit in place\n", static_cast<long long>(elements));
}

TEST(cuda_flash_by_the_librarys_rules_equals_the_cpu_operator) {
  at::manual_seed(43);
  std::mt19937 random(43);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    for (const int64_t window : {0, 20, 1000}) {
      AttentionSpec spec;
      spec.heads = 6;
      spec.kv_heads = 2;
      spec.head_dim = 64;
      spec.scale = 0.11f;
      spec.window = window;
      FlashStep step(random, spec.kv_heads, spec.head_dim, type);
      // Numbers now, not bits; every position that a row may see holds some.
      step.keys.copy_(at::randn(step.keys.sizes()));
      step.values.copy_(at::randn(step.values.sizes()));
      std::vector<int32_t> positions(static_cast<size_t>(step.rows), 0), sequence(static_cast<size_t>(step.rows), 0);
      std::vector<int64_t> of_chunks;
      for (int64_t row = 0, s = 0; row < step.rows; ++s) {
        PromptChunk chunk{s, row, 1, 3};
        for (const PromptChunk& each : step.chunks) {
          if (each.first_row == row) chunk = each;
        }
        for (int64_t i = 0; i < chunk.rows; ++i, ++row) {
          positions[static_cast<size_t>(row)] = static_cast<int32_t>(chunk.context - chunk.rows + i);
          sequence[static_cast<size_t>(row)] = static_cast<int32_t>(s);
          if (chunk.rows > 1) of_chunks.push_back(row);
        }
      }
      AttentionCall call;
      call.spec = &spec;
      // Exact in 16 bits, so that rounding the queries rounds nothing here.
      call.qkv = at::randn({step.rows, (spec.heads + 2 * spec.kv_heads) * spec.head_dim}).to(type).to(at::kFloat);
      call.positions = at::tensor(positions, at::kInt);
      call.row_sequence = at::tensor(sequence, at::kInt);
      call.block_tables = step.tables;
      call.keys = step.keys;
      call.values = step.values;
      const at::Tensor expected = cpu_backend().attention(call);  // writes the step's keys and values

      const cuda::FlashPlan plan = cuda::plan_flash(step.chunks, window);
      const at::Tensor queries = call.qkv.narrow(1, 0, spec.heads * spec.head_dim).contiguous();
      const at::Tensor q = at::empty({plan.total_q, spec.heads, spec.head_dim}, type);
      const at::Tensor k = at::empty({plan.total_k, spec.kv_heads, spec.head_dim}, type), v = at::empty_like(k);
      cuda::FlashArgs args = flash_args(plan, spec, step);
      args.queries = queries.const_data_ptr<float>();
      args.dense_queries = bits_of(q);
      args.dense_keys = bits_of(k);
      args.dense_values = bits_of(v);
      emulate_gather(args, random());
      const at::Tensor got = library(plan, q.to(at::kFloat), k, v, spec.scale).reshape({plan.total_q, -1});
      const at::Tensor rows = at::tensor(of_chunks, at::kLong);
      CHECK_CLOSE(got, expected.index_select(0, rows), 2e-6, "window " + std::to_string(window));
    }
  }
  report_worst("the library's rules against the CPU operator");
}

TEST(cuda_flash_refuses_what_the_library_cannot_compute_and_says_why) {
  const auto refusal = [](int64_t dim, float softcap, cuda::Dtype dtype, int major) {
    return cuda::flash_refusal(dim, softcap, dtype, major);
  };
  CHECK_THAT(refusal(64, 0, cuda::Dtype::kBFloat16, 8).empty() && refusal(256, 0, cuda::Dtype::kFloat16, 9).empty());
  CHECK_THAT(refusal(64, 0, cuda::Dtype::kFloat32, 9).find("float32") != std::string::npos);
  CHECK_THAT(refusal(64, 0, cuda::Dtype::kBFloat16, 7).find("7.x") != std::string::npos);
  CHECK_THAT(refusal(64, 30, cuda::Dtype::kBFloat16, 9).find("soft cap") != std::string::npos);
  CHECK_THAT(refusal(264, 0, cuda::Dtype::kBFloat16, 9).find("264") != std::string::npos);
  CHECK_THAT(refusal(60, 0, cuda::Dtype::kBFloat16, 9).find("60") != std::string::npos);
}

}  // namespace chatspace::testing
