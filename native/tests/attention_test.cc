// SPDX-License-Identifier: Apache-2.0
// Attention over the paged cache: against a float64 reference, and bit for bit whatever the chunks, the
// batch, the blocks and the threads are.
#include <algorithm>
#include <cmath>

#include "ops/kv_cache.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim, rotary_dim;
  bool interleaved;
  bool norms;
  double softcap;
  int64_t window;
};

std::string spec_of(const Shape& s) {
  std::string text = "chatspace-cache 1\n";
  if (s.rotary_dim > 0) {
    text += "rope 1.25 " + std::to_string(s.rotary_dim / 2);
    for (int64_t i = 0; i < s.rotary_dim / 2; ++i) {
      text += " " + std::to_string(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(s.rotary_dim)));
    }
    text += "\n";
  }
  text += "layer " + std::to_string(s.heads) + " " + std::to_string(s.kv_heads) + " " + std::to_string(s.head_dim) +
          " " + std::to_string(s.rotary_dim) + " " + std::to_string(s.interleaved) + " " +
          (s.rotary_dim > 0 ? "0" : "-1") + " " + std::to_string(1.0 / std::sqrt(static_cast<double>(s.head_dim))) +
          " " + std::to_string(s.softcap) + " " + std::to_string(s.window) + "\n";
  return text;
}

at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, const Shape& s) {
  if (s.rotary_dim == 0) return x;
  const int64_t half = s.rotary_dim / 2;
  at::Tensor out = x.clone();
  const at::Tensor part = x.narrow(2, 0, s.rotary_dim);
  const at::Tensor c = cos.unsqueeze(1), n = sin.unsqueeze(1);
  at::Tensor a, b;
  if (s.interleaved) {
    a = part.slice(2, 0, s.rotary_dim, 2);
    b = part.slice(2, 1, s.rotary_dim, 2);
    out.slice(2, 0, s.rotary_dim, 2).copy_(a * c - b * n);
    out.slice(2, 1, s.rotary_dim, 2).copy_(b * c + a * n);
  } else {
    a = part.narrow(2, 0, half);
    b = part.narrow(2, half, half);
    out.narrow(2, 0, half).copy_(a * c - b * n);
    out.narrow(2, half, half).copy_(b * c + a * n);
  }
  return out;
}

// Whole sequence at once, in float64. qkv [T, ...] -> [T, heads * head_dim].
at::Tensor reference(const at::Tensor& qkv, const Shape& s, const KVCache& cache, const OptionalTensor& q_norm,
                     const OptionalTensor& k_norm, double eps, at::ScalarType dtype) {
  const int64_t t = qkv.size(0);
  const at::Tensor x = qkv.to(at::kDouble).view({t, s.heads + 2 * s.kv_heads, s.head_dim});
  at::Tensor q = x.narrow(1, 0, s.heads), k = x.narrow(1, s.heads, s.kv_heads);
  at::Tensor v = x.narrow(1, s.heads + s.kv_heads, s.kv_heads);
  const auto norm = [&](const at::Tensor& y, const at::Tensor& w) {
    return y * at::rsqrt(y.pow(2).mean(2, true) + eps) * w.to(at::kDouble);
  };
  if (q_norm) q = norm(q, *q_norm);
  if (k_norm) k = norm(k, *k_norm);
  if (s.rotary_dim > 0) {
    std::vector<double> f;
    for (int64_t i = 0; i < s.rotary_dim / 2; ++i) {
      f.push_back(std::stof(std::to_string(
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(s.rotary_dim)))));
    }
    const at::Tensor angle = at::arange(t, at::kDouble).unsqueeze(1) * at::tensor(f, at::kDouble);
    q = rotated(q, at::cos(angle) * 1.25, at::sin(angle) * 1.25, s);
    k = rotated(k, at::cos(angle) * 1.25, at::sin(angle) * 1.25, s);
  }
  if (dtype != at::kFloat) {
    k = k.to(at::kFloat).to(dtype).to(at::kDouble);
    v = v.to(dtype).to(at::kDouble);
  }
  const int64_t group = s.heads / s.kv_heads;
  k = k.repeat_interleave(group, 1).transpose(0, 1);
  v = v.repeat_interleave(group, 1).transpose(0, 1);
  at::Tensor scores = at::matmul(q.transpose(0, 1), k.transpose(1, 2)) * static_cast<double>(cache.layers()[0].scale);
  if (s.softcap > 0) scores = at::tanh(scores / s.softcap) * s.softcap;
  const at::Tensor at_row = at::arange(t).unsqueeze(1), at_key = at::arange(t).unsqueeze(0);
  at::Tensor hidden = at_key.gt(at_row);
  if (s.window > 0) hidden = hidden.logical_or(at_key.le(at_row - s.window));
  scores = scores.masked_fill(hidden, -INFINITY);
  return at::matmul(at::softmax(scores, -1), v).transpose(0, 1).reshape({t, s.heads * s.head_dim});
}

struct Part {
  int64_t sequence, begin, end;
};

// Runs one step of the given parts; block tables are shuffled so that neighbours in a sequence are not
// neighbours in memory.
at::Tensor step(KVCache& cache, const std::vector<at::Tensor>& qkv, const std::vector<Part>& parts,
                const OptionalTensor& q_norm, const OptionalTensor& k_norm, double eps) {
  int64_t blocks = 1;
  for (const at::Tensor& x : qkv) blocks = std::max<int64_t>(blocks, (x.size(0) + kBlockTokens - 1) / kBlockTokens);
  const int64_t all = static_cast<int64_t>(qkv.size());
  at::Tensor tables = at::zeros({static_cast<int64_t>(parts.size()), blocks}, at::kInt);
  std::vector<at::Tensor> rows, positions, sequences;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& p = parts[i];
    rows.push_back(qkv[p.sequence].narrow(0, p.begin, p.end - p.begin));
    positions.push_back(at::arange(p.begin, p.end, at::kInt));
    sequences.push_back(at::full({p.end - p.begin}, static_cast<int64_t>(i), at::kInt));
    for (int64_t b = 0; b < blocks; ++b) {
      tables[static_cast<int64_t>(i)][b] = static_cast<int32_t>(((blocks - 1 - b) * all + p.sequence));
    }
  }
  cache.begin_step({at::cat(positions), at::cat(sequences), tables});
  return cache.attend(0, at::cat(rows), q_norm, k_norm, eps);
}

const Shape kShapes[] = {
    {9, 3, 64, 64, false, false, 0, 0},  {4, 4, 8, 8, false, true, 0, 0},    {4, 2, 16, 8, true, false, 0, 0},
    {6, 1, 80, 20, false, true, 0, 0},   {8, 2, 128, 128, false, false, 30, 0}, {3, 3, 64, 0, false, false, 0, 37},
    {5, 5, 12, 4, true, false, 5, 300},
};

}  // namespace

TEST(attention_matches_float64) {
  at::manual_seed(6);
  ThreadPool pool(2);
  PoolScope scope(&pool);
  for_each_isa([](const CpuKernels& kernels) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const Shape& s : kShapes) {
        const int64_t t = 331;
        KVCache cache(spec_of(s));
        cache.allocate(16, dtype, at::kCPU);
        const at::Tensor qkv = at::randn({t, (s.heads + 2 * s.kv_heads) * s.head_dim}) * 1.5;
        OptionalTensor qn, kn;
        if (s.norms) {
          qn = at::randn({s.head_dim});
          kn = at::randn({s.head_dim});
        }
        const at::Tensor got = step(cache, {qkv}, {{0, 0, t}}, qn, kn, 1e-6);
        // A key near the middle of two halves may round either way: one ulp of the cache's dtype.
        const double allowed = dtype == at::kFloat ? 2e-5 : dtype == at::kHalf ? 2e-3 : 1.5e-2;
        CHECK_CLOSE(got, reference(qkv, s, cache, qn, kn, 1e-6, dtype), allowed,
                    std::string(kernels.name) + " head_dim " + std::to_string(s.head_dim) + " " +
                        c10::toString(dtype));
      }
      report_worst(std::string(kernels.name) + " " + c10::toString(dtype));
    }
  });
}

TEST(attention_is_the_same_in_chunks_in_batches_and_split_over_threads) {
  at::manual_seed(7);
  ThreadPool two(2), four(4);
  for_each_isa([&](const CpuKernels& kernels) {
    for (const Shape& s : kShapes) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const int64_t width = (s.heads + 2 * s.kv_heads) * s.head_dim;
        const std::vector<at::Tensor> qkv = {at::randn({1300, width}), at::randn({70, width}), at::randn({300, width})};
        OptionalTensor qn, kn;
        if (s.norms) qn = kn = at::randn({s.head_dim});
        const std::string name = std::string(kernels.name) + " head_dim " + std::to_string(s.head_dim);
        KVCache whole(spec_of(s)), pieces(spec_of(s));
        whole.allocate(41 * 3, dtype, at::kCPU);
        pieces.allocate(41 * 3, dtype, at::kCPU);
        std::vector<at::Tensor> want;
        for (int64_t i = 0; i < 3; ++i) want.push_back(step(whole, qkv, {{i, 0, qkv[i].size(0)}}, qn, kn, 1e-6));
        PoolScope scope(&two);
        const auto same = [&](const std::vector<Part>& parts, const std::string& what) {
          const at::Tensor got = step(pieces, qkv, parts, qn, kn, 1e-6);
          int64_t row = 0;
          for (const Part& p : parts) {
            CHECK_SAME_BITS(got.narrow(0, row, p.end - p.begin), want[p.sequence].narrow(0, p.begin, p.end - p.begin),
                            name + " " + what);
            row += p.end - p.begin;
          }
        };
        same({{0, 0, 1}, {1, 0, 33}}, "first chunk");
        same({{1, 33, 69}, {0, 1, 700}, {2, 0, 299}}, "three sequences");
        same({{0, 700, 701}}, "one row");
        same({{0, 701, 1290}}, "a long chunk");
        same({{0, 1290, 1291}, {1, 69, 70}, {2, 299, 300}}, "a decode batch");
        PoolScope wide(&four);
        for (int64_t p = 1291; p < 1296; ++p) same({{0, p, p + 1}}, "a lone row with a long context, split");
        same({{0, 1296, 1300}}, "four rows, split");
      }
    }
  });
}

TEST(attention_ignores_what_lies_in_rows_it_may_not_see) {
  Shape s{2, 1, 16, 0, false, false, 0, 0};
  KVCache cache(spec_of(s));
  cache.allocate(2, at::kFloat, at::kCPU);
  at::Tensor qkv = at::randn({40, 64});
  const at::Tensor want = step(cache, {qkv}, {{0, 0, 40}}, {}, {}, 1e-6).narrow(0, 0, 21);
  qkv.narrow(0, 21, 19).fill_(NAN);
  const at::Tensor got = step(cache, {qkv}, {{0, 0, 40}}, {}, {}, 1e-6);
  CHECK_SAME_BITS(got.narrow(0, 0, 21), want, "rows before a NaN row");
  CHECK_THAT(at::isnan(got.narrow(0, 21, 19)).all().item<bool>());
}

}  // namespace chatspace::testing
