// SPDX-License-Identifier: Apache-2.0
// Attention over the paged cache. Scores: lanes along the 32 positions of a block (keys are stored
// transposed), one chain over head_dim. Output: lanes along head_dim, one chain over positions.
// Softmax is taken per split of kAttentionSplit positions counted from 0, and splits are merged in order
// (online softmax, Milakov and Gimelshein 2018), so a query's arithmetic depends on its position alone.

#if defined(__AVX512F__)
constexpr int kScoreQueries = 6;
constexpr int kValueQueries = 4;
#elif defined(__AVX2__)
constexpr int kScoreQueries = 2;
constexpr int kValueQueries = 2;
#else
constexpr int kScoreQueries = 1;
constexpr int kValueQueries = 1;
#endif

constexpr float kMinusInfinity = -__builtin_inff();

template <int NQ, ElementType E>
static inline void score_block(const float* const* q, const void* keys, int64_t key_offset, int64_t head_dim,
                               const AttentionTile& t, float* const* out) {
  constexpr int W = Simd::W;
  constexpr int NV = static_cast<int>(kAttentionBlock) / W;
  Simd::V acc[NQ][NV];
#pragma GCC unroll 8
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[i][v] = Simd::zero();
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    Simd::V k[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) k[v] = Simd::load_as<E>(keys, key_offset + d * kAttentionBlock + v * W);
#pragma GCC unroll 8
    for (int i = 0; i < NQ; ++i) {
      const Simd::V b = Simd::set1(q[i][d]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[i][v] = Simd::fma(b, k[v], acc[i][v]);
    }
  }
  const Simd::V scale = Simd::set1(t.scale);
#pragma GCC unroll 8
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      Simd::V s = Simd::mul(acc[i][v], scale);
      if (t.softcap > 0.0f) {
        const Simd::V cap = Simd::set1(t.softcap);
        s = Simd::mul(cap, vtanh(Simd::div(s, cap)));
      }
      Simd::store(out[i] + v * W, s);
    }
  }
}

template <ElementType E>
static inline void score_queries(int64_t count, const float* const* q, const void* keys, int64_t key_offset,
                                 int64_t head_dim, const AttentionTile& t, float* const* out) {
  int64_t i = 0;
  for (; i + kScoreQueries <= count; i += kScoreQueries) {
    score_block<kScoreQueries, E>(q + i, keys, key_offset, head_dim, t, out + i);
  }
  switch (count - i) {
    case 5:
      if constexpr (kScoreQueries > 5) score_block<5, E>(q + i, keys, key_offset, head_dim, t, out + i);
      break;
    case 4:
      if constexpr (kScoreQueries > 4) score_block<4, E>(q + i, keys, key_offset, head_dim, t, out + i);
      break;
    case 3:
      if constexpr (kScoreQueries > 3) score_block<3, E>(q + i, keys, key_offset, head_dim, t, out + i);
      break;
    case 2:
      if constexpr (kScoreQueries > 2) score_block<2, E>(q + i, keys, key_offset, head_dim, t, out + i);
      break;
    case 1:
      if constexpr (kScoreQueries > 1) score_block<1, E>(q + i, keys, key_offset, head_dim, t, out + i);
      break;
    default:
      break;
  }
}

// acc[i][d ..] += sum over positions [from, to) of the block of p[i][position] * V[position][d ..].
template <int NQ, int ND, bool Tail, ElementType E>
static inline void value_strip(float* const* acc, const float* const* p, const void* values, int64_t value_offset,
                               int64_t head_dim, int64_t d, int64_t from, int64_t to) {
  constexpr int W = Simd::W;
  const int64_t rest = head_dim - d;
  Simd::V a[NQ][ND];
#pragma GCC unroll 8
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < ND; ++v) a[i][v] = Tail ? Simd::load_n(acc[i] + d, rest) : Simd::load(acc[i] + d + v * W);
  }
  for (int64_t j = from; j < to; ++j) {
    Simd::V x[ND];
#pragma GCC unroll 8
    for (int v = 0; v < ND; ++v) {
      const int64_t at = value_offset + j * head_dim + d + v * W;
      x[v] = Tail ? Simd::load_as_n<E>(values, at, rest) : Simd::load_as<E>(values, at);
    }
#pragma GCC unroll 8
    for (int i = 0; i < NQ; ++i) {
      const Simd::V b = Simd::set1(p[i][j]);
#pragma GCC unroll 8
      for (int v = 0; v < ND; ++v) a[i][v] = Simd::fma(b, x[v], a[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < NQ; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < ND; ++v) {
      if constexpr (Tail) {
        Simd::store_n(acc[i] + d, a[i][v], rest);
      } else {
        Simd::store(acc[i] + d + v * W, a[i][v]);
      }
    }
  }
}

template <int NQ, ElementType E>
static inline void value_block(float* const* acc, const float* const* p, const void* values, int64_t value_offset,
                               int64_t head_dim, int64_t from, int64_t to) {
  constexpr int W = Simd::W;
  int64_t d = 0;
  for (; d + 4 * W <= head_dim; d += 4 * W) {
    value_strip<NQ, 4, false, E>(acc, p, values, value_offset, head_dim, d, from, to);
  }
  for (; d + W <= head_dim; d += W) {
    value_strip<NQ, 1, false, E>(acc, p, values, value_offset, head_dim, d, from, to);
  }
  if (d < head_dim) value_strip<NQ, 1, true, E>(acc, p, values, value_offset, head_dim, d, from, to);
}

// acc, m, l := merge with one more split (m = -inf and l = 0 mean that nothing was there yet).
static inline void merge_split(float* acc, float* m, float* l, const float* part, float part_m, float part_l,
                               int64_t head_dim) {
  if (part_l == 0.0f && part_m == kMinusInfinity) return;
  if (*l == 0.0f && *m == kMinusInfinity) {
    to_float_typed<ElementType::kFloat32>(part, head_dim, acc);
    *m = part_m;
    *l = part_l;
    return;
  }
  const float top = *m > part_m ? *m : part_m;
  float factors[Simd::W];
  Simd::store(factors, vexp(Simd::set1(*m - top)));
  const float old_factor = factors[0];
  Simd::store(factors, vexp(Simd::set1(part_m - top)));
  const float part_factor = factors[0];
  const Simd::V a = Simd::set1(old_factor), b = Simd::set1(part_factor);
  for_vectors(head_dim, [&](int64_t i, int64_t c) {
    store_some(acc + i, Simd::fma(load_some(part + i, c), b, Simd::mul(load_some(acc + i, c), a)), c);
  });
  *m = top;
  *l = __builtin_fmaf(part_l, part_factor, *l * old_factor);
}

static inline void divide_row(float* out, float l, int64_t n) {
  const Simd::V d = Simd::set1(l);
  for_vectors(n, [&](int64_t i, int64_t c) { store_some(out + i, Simd::div(load_some(out + i, c), d), c); });
}

// Softmax numerators in place for positions [from, to) of a split; zero elsewhere in the blocks touched.
static inline void softmax_split(float* s, int64_t from, int64_t to, float* m, float* l) {
  const int64_t first = from / kAttentionBlock * kAttentionBlock;
  const int64_t last = (to + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
  for (int64_t i = first; i < from; ++i) s[i] = kMinusInfinity;
  for (int64_t i = to; i < last; ++i) s[i] = kMinusInfinity;
  Simd::V top = Simd::set1(kMinusInfinity);
  for (int64_t i = first; i < last; i += Simd::W) top = Simd::max(top, Simd::load(s + i));
  const float maximum = Simd::maximum(top);
  const Simd::V shift = Simd::set1(maximum);
  for (int64_t i = first; i < last; i += Simd::W) Simd::store(s + i, vexp(Simd::sub(Simd::load(s + i), shift)));
  for (int64_t i = first; i < from; ++i) s[i] = 0.0f;
  for (int64_t i = to; i < last; ++i) s[i] = 0.0f;
  Simd::V sum = Simd::zero();
  for (int64_t i = first; i < last; i += Simd::W) sum = Simd::add(sum, Simd::load(s + i));
  *m = maximum;
  *l = Simd::sum(sum);
}

template <ElementType E>
static void attention_typed(const AttentionTile& t) {
  const int64_t queries = t.rows * t.group;
  const int64_t hd = t.head_dim;
  const int64_t pointers = queries * static_cast<int64_t>(sizeof(void*) / sizeof(float));
  // scores [queries, split], acc [queries, head_dim], m, l, running m, running l [queries], three pointer
  // arrays, ranges [2 * queries] of int64.
  float* scratch = thread_scratch(Scratch::kScores, queries * (kAttentionSplit + hd + 4) + 3 * pointers + 4 * queries + 64);
  const float** q = reinterpret_cast<const float**>(scratch);
  float** s = reinterpret_cast<float**>(scratch + pointers);
  float** acc = reinterpret_cast<float**>(scratch + 2 * pointers);
  int64_t* from = reinterpret_cast<int64_t*>(scratch + 3 * pointers);
  int64_t* to = from + queries;
  float* scores = scratch + 3 * pointers + 4 * queries;
  float* sums = scores + queries * kAttentionSplit;
  float* m = sums + queries * hd;
  float* l = m + queries;
  float* running_m = l + queries;
  float* running_l = running_m + queries;
  for (int64_t i = 0; i < queries; ++i) {
    q[i] = t.q + (i / t.group) * t.q_stride + (i % t.group) * hd;
    acc[i] = sums + i * hd;
    running_m[i] = kMinusInfinity;
    running_l[i] = 0.0f;
  }
  for (int64_t split = t.split_begin; split < t.split_end; ++split) {
    const int64_t base = split * kAttentionSplit;
    int64_t lowest = kAttentionSplit, highest = 0;
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t p = t.first_position + i / t.group;
      int64_t a = t.window > 0 && p - t.window + 1 > base ? p - t.window + 1 - base : 0;
      int64_t b = p + 1 - base < kAttentionSplit ? p + 1 - base : kAttentionSplit;
      if (a >= b) a = b = 0;
      from[i] = a;
      to[i] = b;
      if (a < b) {
        lowest = a < lowest ? a : lowest;
        highest = b > highest ? b : highest;
      }
    }
    const int64_t first_block = lowest / kAttentionBlock;
    const int64_t end_block = (highest + kAttentionBlock - 1) / kAttentionBlock;
    const int32_t* blocks = t.blocks + base / kAttentionBlock;
    for (int64_t block = first_block; block < end_block; ++block) {
      for (int64_t i = 0; i < queries; ++i) s[i] = scores + i * kAttentionSplit + block * kAttentionBlock;
      score_queries<E>(queries, q, t.keys, blocks[block] * t.block_stride, hd, t, s);
    }
    for (int64_t i = 0; i < queries; ++i) {
      m[i] = kMinusInfinity;
      l[i] = 0.0f;
      if (from[i] < to[i]) softmax_split(scores + i * kAttentionSplit, from[i], to[i], m + i, l + i);
      for (int64_t d = 0; d < hd; ++d) acc[i][d] = 0.0f;
    }
    for (int64_t block = first_block; block < end_block; ++block) {
      const int64_t start = block * kAttentionBlock;
      const int64_t offset = blocks[block] * t.block_stride;
      for (int64_t i = 0; i < queries; ++i) s[i] = scores + i * kAttentionSplit + start;
      for (int64_t i = 0; i < queries;) {
        const auto clip = [&](int64_t x) {
          return x < start ? int64_t{0} : x > start + kAttentionBlock ? kAttentionBlock : x - start;
        };
        const int64_t a = clip(from[i]), b = clip(to[i]);
        bool together = i + kValueQueries <= queries;
        for (int64_t j = i + 1; together && j < i + kValueQueries; ++j) {
          together = clip(from[j]) == a && clip(to[j]) == b;
        }
        if (together) {
          value_block<kValueQueries, E>(acc + i, s + i, t.values, offset, hd, a, b);
          i += kValueQueries;
        } else {
          value_block<1, E>(acc + i, s + i, t.values, offset, hd, a, b);
          i += 1;
        }
      }
    }
    for (int64_t i = 0; i < queries; ++i) {
      if (t.partials != nullptr) {
        float* part = t.partials + ((split - t.split_begin) * queries + i) * (hd + 2);
        part[0] = m[i];
        part[1] = l[i];
        to_float_typed<ElementType::kFloat32>(acc[i], hd, part + 2);
      } else {
        float* out = t.out + (i / t.group) * t.out_stride + (i % t.group) * hd;
        merge_split(out, running_m + i, running_l + i, acc[i], m[i], l[i], hd);
      }
    }
  }
  if (t.partials != nullptr) return;
  for (int64_t i = 0; i < queries; ++i) {
    divide_row(t.out + (i / t.group) * t.out_stride + (i % t.group) * hd, running_l[i], hd);
  }
}

static void attention(const AttentionTile& t) {
  switch (t.type) {
    case ElementType::kFloat32:
      return attention_typed<ElementType::kFloat32>(t);
    case ElementType::kBFloat16:
      return attention_typed<ElementType::kBFloat16>(t);
    default:  // caches hold float types
      return attention_typed<ElementType::kFloat16>(t);
  }
}

static void merge(const float* partials, int64_t split_stride, int64_t splits, int64_t head_dim, float* out) {
  float m = kMinusInfinity;
  float l = 0.0f;
  for (int64_t i = 0; i < splits; ++i) {
    const float* part = partials + i * split_stride;
    merge_split(out, &m, &l, part + 2, part[0], part[1], head_dim);
  }
  divide_row(out, l, head_dim);
}
