// SPDX-License-Identifier: Apache-2.0
// The bodies of the CUDA attention kernels on an emulated block, a whole step as the launches make it,
// against the CPU's attention: cache contents and results, over chunks, decodes and both in one step.
#include <random>
#include <utility>

#include "kernels/cuda/attention_chunk.cuh"
#include "kernels/cuda/attention_single.cuh"
#include "kernels/cuda/rotary_row.cuh"
#include "ops/backend.h"
#include "tests/check.h"
#include "tests/emulated_block.h"

namespace chatspace::testing {
namespace {

constexpr int kWarps = 4;

template <class T>
constexpr cuda::Dtype kDtype = cuda::Dtype::kFloat32;
template <>
constexpr cuda::Dtype kDtype<cuda::BFloat16> = cuda::Dtype::kBFloat16;

template <int Q, int L, class Cache>
void emulate_single(EmulatedBlock& block, const cuda::AttentionArgs& args) {
  const int64_t chunks = (args.heads / args.kv_heads + Q - 1) / Q;
  std::vector<float> shared(static_cast<size_t>(cuda::single_shared_floats(Q, kWarps, args.head_dim)), NAN);
  for (int64_t sequence = 0; sequence < args.sequences; ++sequence) {
    for (int64_t item = 0; item < args.kv_heads * chunks; ++item) {
      for (int64_t split = 0; split < args.splits; ++split) {
        block.run([&](EmulatedBlock::Lane& lane) {
          cuda::attend_single<Q, L, Cache>(lane, args, sequence, item, split, shared.data());
        });
      }
    }
  }
  if (args.partial == nullptr) return;
  for (int64_t sequence = 0; sequence < args.sequences; ++sequence) {
    for (int64_t head = 0; head < args.heads; ++head) {
      block.run([&](EmulatedBlock::Lane& lane) { cuda::merge_splits(lane, args, sequence, head); });
    }
  }
}

template <int Q, int L, class Cache>
void emulate_chunks(EmulatedBlock& block, const cuda::AttentionArgs& args) {
  const cuda::ChunkShape shape = cuda::chunk_shape(args.heads / args.kv_heads, kWarps * Q);
  std::vector<float> shared(static_cast<size_t>(cuda::chunk_shared_floats(Q, kWarps, args.head_dim)), NAN);
  for (int64_t tile = 0; tile * shape.rows < args.rows; ++tile) {
    for (int64_t item = 0; item < args.kv_heads * shape.chunks; ++item) {
      block.run([&](EmulatedBlock::Lane& lane) {
        cuda::attend_chunk<Q, L, Cache>(lane, args, tile, item, shared.data());
      });
    }
  }
}

// One step on the emulated device.
template <class Cache>
at::Tensor emulate(const AttentionCall& call, int64_t split_blocks, uint32_t seed, bool all_chunks = false) {
  const AttentionSpec& spec = *call.spec;
  const int64_t rows = call.qkv.size(0), sequences = call.block_tables.size(0);
  const auto array = [](const OptionalTensor& t) {
    return t.has_value() ? cuda::ConstArray{t->const_data_ptr(), cuda::Dtype::kFloat32} : cuda::ConstArray{};
  };
  std::vector<float> queries(static_cast<size_t>(rows * spec.heads * spec.head_dim), NAN);
  std::vector<int32_t> single(static_cast<size_t>(sequences), 12345);
  at::Tensor out = at::full({rows, spec.heads * spec.head_dim}, NAN);

  cuda::AttentionArgs args{};
  args.rows = rows;
  args.sequences = sequences;
  args.max_blocks = call.block_tables.size(1);
  args.heads = spec.heads;
  args.kv_heads = spec.kv_heads;
  args.head_dim = spec.head_dim;
  args.rotary_dim = spec.rope < 0 ? 0 : spec.rotary_dim;
  args.interleaved = spec.interleaved;
  args.scale = spec.scale;
  args.softcap = spec.softcap;
  args.window = spec.window;
  args.norm_eps = static_cast<float>(call.norm_eps);
  args.qkv = array(call.qkv);
  args.q_norm = array(call.q_norm);
  args.k_norm = array(call.k_norm);
  if (args.rotary_dim > 0) {
    args.cos = call.cos.const_data_ptr<float>();
    args.sin = call.sin.const_data_ptr<float>();
  }
  args.positions = call.positions.const_data_ptr<int32_t>();
  args.row_sequence = call.row_sequence.const_data_ptr<int32_t>();
  args.block_tables = call.block_tables.const_data_ptr<int32_t>();
  args.table_stride = call.block_tables.stride(0);
  args.keys = {call.keys.mutable_data_ptr(), kDtype<Cache>};
  args.values = {call.values.mutable_data_ptr(), kDtype<Cache>};
  args.queries = queries.data();
  args.all_chunks = all_chunks;
  args.single = single.data();
  args.split_blocks = split_blocks > 0 ? split_blocks : cuda::kSplitBlocks;
  args.splits = split_blocks > 0 ? (args.max_blocks + split_blocks - 1) / split_blocks
                                 : cuda::attention_splits(args.max_blocks);
  std::vector<float> partial;
  if (args.splits > 1) {
    partial.assign(static_cast<size_t>(sequences * spec.heads * args.splits * (spec.head_dim + 2)), NAN);
    args.partial = partial.data();
  }
  args.out = {out.mutable_data_ptr(), cuda::Dtype::kFloat32};

  EmulatedBlock block(kWarps * 32, seed);
  std::vector<float> buffers(kWarps * cuda::kMaxHeadDim);
  for (int64_t row = 0; row < rows; ++row) {
    block.run([&](EmulatedBlock::Lane& lane) {
      cuda::rotary_row<Cache>(lane, args, row, buffers.data() + lane.warp() * cuda::kMaxHeadDim);
    });
  }
  const bool grouped = spec.heads != spec.kv_heads;
  const bool singles = !all_chunks, chunks = all_chunks || rows > sequences;
  if (spec.head_dim <= 64) {
    if (singles) grouped ? emulate_single<4, 2, Cache>(block, args) : emulate_single<1, 2, Cache>(block, args);
    if (chunks) emulate_chunks<8, 2, Cache>(block, args);
  } else if (spec.head_dim <= 128) {
    if (singles) grouped ? emulate_single<4, 4, Cache>(block, args) : emulate_single<1, 4, Cache>(block, args);
    if (chunks) emulate_chunks<8, 4, Cache>(block, args);
  } else {
    if (singles) grouped ? emulate_single<4, 8, Cache>(block, args) : emulate_single<1, 8, Cache>(block, args);
    if (chunks) emulate_chunks<4, 8, Cache>(block, args);
  }
  return out;
}

struct AttentionCase {
  const char* name;
  AttentionSpec spec;
  bool norms;
  int64_t split_blocks;  // 0 = as the launch chooses
};

// Slices of a step: sequence, first position, rows.
struct Slice {
  int32_t sequence;
  int32_t first;
  int32_t count;
};

template <class Cache>
void check_case(const AttentionCase& test, at::ScalarType type, double allowed) {
  const AttentionSpec& spec = test.spec;
  constexpr int64_t kSequences = 4, kBlocksEach = 5;
  const int64_t blocks = kSequences * kBlocksEach;
  const at::Tensor keys = at::full({blocks, spec.kv_heads, spec.head_dim, kBlockTokens}, NAN).to(type);
  const at::Tensor values = at::full({blocks, spec.kv_heads, kBlockTokens, spec.head_dim}, NAN).to(type);
  const at::Tensor oracle_keys = keys.clone(), oracle_values = values.clone();
  // Scattered over the cache, as after many requests have come and gone.
  const at::Tensor tables = at::randperm(blocks, at::kInt).view({kSequences, kBlocksEach});
  const OptionalTensor q_norm = test.norms ? OptionalTensor(at::randn({spec.head_dim})) : std::nullopt;
  const OptionalTensor k_norm = test.norms ? OptionalTensor(at::randn({spec.head_dim})) : std::nullopt;

  const std::vector<std::vector<Slice>> steps = {{{0, 0, 45}, {1, 0, 1}, {2, 0, 3}, {3, 0, 33}},
                                                 {{2, 3, 1}, {0, 45, 7}, {1, 1, 1}, {3, 33, 62}},
                                                 {{3, 95, 1}, {1, 2, 1}, {2, 4, 1}, {0, 52, 1}}};
  uint32_t seed = 1;
  for (const std::vector<Slice>& step : steps) {
    std::vector<int32_t> position, sequence;
    for (const Slice& slice : step) {
      for (int32_t i = 0; i < slice.count; ++i) {
        position.push_back(slice.first + i);
        sequence.push_back(slice.sequence);
      }
    }
    const auto rows = static_cast<int64_t>(position.size());
    AttentionCall call;
    call.spec = &spec;
    call.qkv = at::randn({rows, (spec.heads + 2 * spec.kv_heads) * spec.head_dim});
    call.q_norm = q_norm;
    call.k_norm = k_norm;
    call.positions = at::tensor(position, at::kInt);
    call.row_sequence = at::tensor(sequence, at::kInt);
    call.block_tables = tables;
    if (spec.rope >= 0) {
      const at::Tensor angle = call.positions.to(at::kFloat).unsqueeze(1) *
                               at::pow(10000.0f, at::arange(spec.rotary_dim / 2) * (-2.0f / spec.rotary_dim));
      call.cos = at::cos(angle);
      call.sin = at::sin(angle);
    }
    call.keys = oracle_keys;
    call.values = oracle_values;
    const at::Tensor expected = cpu_backend().attention(call);
    call.keys = keys;
    call.values = values;
    const at::Tensor got = emulate<Cache>(call, test.split_blocks, seed++);
    CHECK_THAT(!at::isnan(got).any().item<bool>());
    CHECK_CLOSE(got, expected, allowed, test.name);
    // A kernel that disagrees in the cache would show it only steps later.
    CHECK_CLOSE(at::nan_to_num(keys.to(at::kFloat)), at::nan_to_num(oracle_keys.to(at::kFloat)),
                type == at::kFloat ? 1e-6 : 8e-3, std::string(test.name) + " keys");
    CHECK_CLOSE(at::nan_to_num(values.to(at::kFloat)), at::nan_to_num(oracle_values.to(at::kFloat)), 0.0,
                std::string(test.name) + " values");
    CHECK_THAT(at::equal(at::isnan(keys), at::isnan(oracle_keys)));
  }
}

}  // namespace

TEST(cuda_attention_bodies_match_the_cpu_operator) {
  at::manual_seed(6);
  const auto spec = [](int64_t heads, int64_t kv_heads, int64_t dim, int64_t rotary, bool interleaved, float softcap,
                       int64_t window) {
    AttentionSpec s;
    s.heads = heads;
    s.kv_heads = kv_heads;
    s.head_dim = dim;
    s.rotary_dim = rotary;
    s.rope = rotary > 0 ? 0 : -1;
    s.interleaved = interleaved;
    s.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    s.softcap = softcap;
    s.window = window;
    return s;
  };
  const AttentionCase cases[] = {
      {"three heads a kv head", spec(9, 3, 64, 64, false, 0, 0), false, 0},
      {"tiny heads", spec(8, 4, 8, 8, false, 0, 0), false, 0},
      {"no groups, no rotary", spec(2, 2, 64, 0, false, 0, 0), false, 0},
      {"split context", spec(4, 2, 32, 32, false, 0, 0), false, 1},
      {"split context, no groups", spec(2, 2, 80, 80, false, 0, 0), false, 2},
      {"window", spec(4, 2, 32, 32, false, 0, 17), false, 0},
      {"window over splits", spec(4, 2, 32, 32, false, 0, 40), false, 1},
      {"softcap", spec(4, 1, 48, 48, false, 5.0f, 0), false, 0},
      {"head norms", spec(4, 2, 128, 128, false, 0, 0), true, 0},
      {"interleaved, part of the head", spec(4, 2, 40, 16, true, 0, 0), false, 0},
      {"halves, part of the head", spec(4, 2, 40, 16, false, 0, 0), true, 0},
      {"widest heads", spec(4, 2, 256, 256, false, 0, 0), false, 2},
      {"one kv head of many", spec(40, 1, 16, 16, false, 0, 0), false, 0},
  };
  for (const AttentionCase& test : cases) check_case<float>(test, at::kFloat, 5e-6);
  report_worst("attention, float32 cache");
  check_case<cuda::BFloat16>(cases[0], at::kBFloat16, 2e-2);
  check_case<cuda::BFloat16>(cases[4], at::kBFloat16, 2e-2);
  report_worst("attention, bfloat16 cache");
}

namespace {

AttentionSpec plain_spec() {
  AttentionSpec spec;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 24;
  spec.scale = 0.2f;
  return spec;
}

// A step of `slices` over caches that hold something everywhere.
AttentionCall call_of(const AttentionSpec& spec, const std::vector<Slice>& slices, const at::Tensor& keys,
                      const at::Tensor& values, const at::Tensor& tables, const at::Tensor& qkv) {
  std::vector<int32_t> position, sequence;
  for (const Slice& slice : slices) {
    for (int32_t i = 0; i < slice.count; ++i) {
      position.push_back(slice.first + i);
      sequence.push_back(slice.sequence);
    }
  }
  AttentionCall call;
  call.spec = &spec;
  call.qkv = qkv;
  call.positions = at::tensor(position, at::kInt);
  call.row_sequence = at::tensor(sequence, at::kInt);
  call.block_tables = tables;
  call.keys = keys;
  call.values = values;
  return call;
}

}  // namespace

TEST(cuda_attention_of_padded_rows_touches_nothing) {
  at::manual_seed(7);
  const AttentionSpec spec = plain_spec();
  const at::Tensor keys = at::randn({10, 2, 24, kBlockTokens}), values = at::randn({10, 2, kBlockTokens, 24});
  // Padding's table rows hold what was there before: blocks of others.
  const at::Tensor tables = at::tensor({7, 2, 0, 5, 7, 2, 0, 5}, at::kInt).view({4, 2});
  const at::Tensor qkv = at::randn({4, 8 * 24});
  for (const bool all_chunks : {false, true}) {
    const at::Tensor want_keys = keys.clone(), want_values = values.clone();
    const at::Tensor got_keys = keys.clone(), got_values = values.clone();
    const std::vector<Slice> live = {{0, 40, 1}, {1, 3, 1}};
    std::vector<Slice> padded = live;
    padded.push_back({-3, 0, 1});
    padded.push_back({-4, 0, 1});
    const at::Tensor want = cpu_backend().attention(
        call_of(spec, live, want_keys, want_values, tables.narrow(0, 0, 2), qkv.narrow(0, 0, 2)));
    const at::Tensor got = emulate<float>(call_of(spec, padded, got_keys, got_values, tables, qkv), 0, 5, all_chunks);
    CHECK_CLOSE(got.narrow(0, 0, 2), want, 5e-6, "rows before padding");
    CHECK_THAT((got.narrow(0, 2, 2) == 0.0).all().item<bool>());
    CHECK_CLOSE(got_keys, want_keys, 1e-6, "keys");
    CHECK_SAME_BITS(got_values, want_values, "values");
    const at::Tensor cpu_keys = keys.clone(), cpu_values = values.clone();
    const at::Tensor cpu = cpu_backend().attention(call_of(spec, padded, cpu_keys, cpu_values, tables, qkv));
    CHECK_SAME_BITS(cpu.narrow(0, 0, 2), want, "the CPU's rows before padding");
    CHECK_THAT((cpu.narrow(0, 2, 2) == 0.0).all().item<bool>());
    CHECK_SAME_BITS(cpu_keys, want_keys, "the CPU's keys");
  }
  report_worst("attention beside padding");
}

TEST(cuda_attention_of_a_row_depends_on_its_position_alone) {
  at::manual_seed(8);
  const AttentionSpec spec = plain_spec();
  const at::Tensor keys = at::randn({40, 2, 24, kBlockTokens}), values = at::randn({40, 2, kBlockTokens, 24});
  const at::Tensor tables = at::randperm(40, at::kInt).view({2, 20});
  const at::Tensor qkv = at::randn({70, 8 * 24});
  const auto run = [&](const std::vector<Slice>& slices, const at::Tensor& table, const at::Tensor& rows, int64_t split,
                       bool all_chunks) {
    return emulate<float>(call_of(spec, slices, keys.clone(), values.clone(), table, rows), split, 9, all_chunks);
  };
  // Decode: tables of other widths, and a neighbour with a longer context.
  const at::Tensor narrow = run({{0, 100, 1}}, tables.narrow(0, 0, 1).narrow(1, 0, 4), qkv.narrow(0, 0, 1), 2, false);
  const at::Tensor wide = run({{0, 100, 1}}, tables.narrow(0, 0, 1), qkv.narrow(0, 0, 1), 2, false);
  const at::Tensor beside = run({{0, 100, 1}, {1, 600, 1}}, tables, qkv.narrow(0, 0, 2), 2, false);
  CHECK_SAME_BITS(narrow, wide, "narrow and wide tables");
  CHECK_SAME_BITS(beside[0], wide[0], "beside a longer one");
  // Reproducible mode: a prompt whole, and the same rows in chunks of which the last is a single row.
  const at::Tensor whole = run({{0, 0, 70}}, tables, qkv, 0, true);
  const at::Tensor cut_keys = keys.clone(), cut_values = values.clone();
  std::vector<at::Tensor> parts;
  for (const auto& [first, count] : {std::pair<int32_t, int32_t>{0, 33}, {33, 36}, {69, 1}}) {
    parts.push_back(emulate<float>(call_of(spec, {{0, first, count}}, cut_keys, cut_values, tables,
                                           qkv.narrow(0, first, count)), 0, 10, true));
  }
  CHECK_SAME_BITS(at::cat(parts), whole, "a prompt in chunks");
}

}  // namespace chatspace::testing
