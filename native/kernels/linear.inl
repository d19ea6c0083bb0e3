// SPDX-License-Identifier: Apache-2.0
// Matrix product by dot products: lanes run along K for both operands, so weights are read as they are
// stored and an element's arithmetic is the same in every tile: one accumulator vector, K ascending,
// then the lane sum.

// A long K may be walked in segments, tile after tile, so that a panel of weights stays in the first-level
// cache; the accumulators wait in `state` meanwhile, which changes no bit of the result.
struct Segment {
  int64_t begin;
  int64_t end;
  bool first;
  bool last;
};

template <int MR, int NR, ElementType E, bool Prefetch>
static inline void linear_tile(const float* x, int64_t x_stride, const char* w, int64_t w_bytes, const Segment& k,
                               float* state, const float* bias, float* out, int64_t out_stride) {
  constexpr int W = Simd::W;
  Simd::V acc[MR][NR];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) acc[m][n] = k.first ? Simd::zero() : Simd::load(state + (m * NR + n) * W);
  }
  if constexpr (is_block_type(E)) {
    // A block's vectors meet the accumulators in order of K, as single vectors do.
    constexpr int P = static_cast<int>(kQuantBlock) / W;
    for (int64_t i = k.begin; i < k.end; i += kQuantBlock) {
      const int64_t offset = i / kQuantBlock * block_bytes(E);
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) {
        const char* block = w + n * w_bytes + offset;
        Simd::V b[P];
        Simd::load_block<E>(reinterpret_cast<const uint8_t*>(block), b);
        if constexpr (Prefetch) Simd::prefetch(block + NR * w_bytes);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
          for (int m = 0; m < MR; ++m) {
            acc[m][n] = Simd::fma(Simd::load(x + m * x_stride + i + p * W), b[p], acc[m][n]);
          }
        }
      }
    }
  } else {
    const int64_t whole = k.begin + (k.end - k.begin) / W * W;
    for (int64_t i = k.begin; i < whole; i += W) {
      Simd::V a[MR];
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) a[m] = Simd::load(x + m * x_stride + i);
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) {
        const char* row = w + n * w_bytes;
        const Simd::V b = Simd::load_as<E>(row, i);
        // The same column of the next tile's rows.
        if constexpr (Prefetch) Simd::prefetch(row + NR * w_bytes + i * static_cast<int64_t>(element_bytes(E)));
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m) acc[m][n] = Simd::fma(a[m], b, acc[m][n]);
      }
    }
    if (whole < k.end) {
      const int64_t rest = k.end - whole;
      Simd::V a[MR];
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) a[m] = Simd::load_n(x + m * x_stride + whole, rest);
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) {
        const Simd::V b = Simd::load_as_n<E>(w + n * w_bytes, whole, rest);
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m) acc[m][n] = Simd::fma(a[m], b, acc[m][n]);
      }
    }
  }
  if (!k.last) {
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) Simd::store(state + (m * NR + n) * W, acc[m][n]);
    }
    return;
  }
  float sums[MR * NR];
  if constexpr (MR * NR % 8 == 0) {
    Simd::sums<MR * NR>(&acc[0][0], sums);
  } else {
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < NR; ++n) sums[m * NR + n] = Simd::sum(acc[m][n]);
    }
  }
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) {
      out[m * out_stride + n] = bias != nullptr ? sums[m * NR + n] + bias[n] : sums[m * NR + n];
    }
  }
}

#if defined(__AVX512F__)
constexpr int kTileRows = 4;
constexpr int kTileCols = 6;
constexpr int kVectorCols = 8;
#elif defined(__AVX2__)
constexpr int kTileRows = 3;
constexpr int kTileCols = 4;
constexpr int kVectorCols = 8;
#else
constexpr int kTileRows = 2;
constexpr int kTileCols = 2;
constexpr int kVectorCols = 4;
#endif

// Six weight rows and eight activation rows of this length fit the first-level cache (32 KiB).
constexpr int64_t kLongestSegment = 576;

template <int MR, int NR, ElementType E, bool Prefetch>
static void linear_strip(const LinearBlock& b, int64_t row, const Segment& k, float* state) {
  const int64_t w_bytes = row_bytes(E, b.k);
  const char* w = static_cast<const char*>(b.weight);
  const float* x = b.x + row * b.x_stride;
  float* out = b.out + row * b.out_stride;
  int64_t n = 0;
  for (; n + NR <= b.n; n += NR) {
    linear_tile<MR, NR, E, Prefetch>(x, b.x_stride, w + n * w_bytes, w_bytes, k,
                                     state + n * MR * Simd::W, b.bias != nullptr ? b.bias + n : nullptr, out + n, b.out_stride);
  }
  for (; n < b.n; ++n) {
    linear_tile<MR, 1, E, false>(x, b.x_stride, w + n * w_bytes, w_bytes, k,
                                 state + n * MR * Simd::W, b.bias != nullptr ? b.bias + n : nullptr, out + n, b.out_stride);
  }
}

// All columns of the block for `rows` <= kTileRows rows.
template <ElementType E, bool Prefetch>
static void linear_rows(const LinearBlock& b, int64_t row, int64_t rows, const Segment& k, float* state) {
  switch (rows) {
    case 1:
      return linear_strip<1, Prefetch ? kVectorCols : kTileCols, E, Prefetch>(b, row, k, state);
    case 2:
      return linear_strip<2, kTileCols, E, Prefetch>(b, row, k, state);
    case 3:
      if constexpr (kTileRows >= 3) return linear_strip<3, kTileCols, E, Prefetch>(b, row, k, state);
      return;
    default:
      if constexpr (kTileRows >= 4) return linear_strip<4, kTileCols, E, Prefetch>(b, row, k, state);
      return;
  }
}

template <ElementType E>
static void linear_typed(const LinearBlock& b) {
  if (b.rows <= kTileRows) return linear_rows<E, true>(b, 0, b.rows, {0, b.k, true, true}, nullptr);
  // Panels of a few weight rows, decoded once and kept in the first-level cache over all rows of x.
  float* panel = nullptr;
  if constexpr (E != ElementType::kFloat32) panel = thread_scratch(Scratch::kPanel, kTileCols * b.k);
  const int64_t w_bytes = row_bytes(E, b.k);
  const int64_t segments = (b.k + kLongestSegment - 1) / kLongestSegment;
  const int64_t length = segments <= 1 ? b.k + 1 : ((b.k + segments - 1) / segments + 31) / 32 * 32;
  float* state = nullptr;
  if (segments > 1) state = thread_scratch(Scratch::kScores, (b.rows + kTileRows) * kTileCols * Simd::W);
  for (int64_t n = 0; n < b.n; n += kTileCols) {
    LinearBlock part = b;
    part.n = b.n - n < kTileCols ? b.n - n : kTileCols;
    part.weight = static_cast<const char*>(b.weight) + n * w_bytes;
    part.bias = b.bias != nullptr ? b.bias + n : nullptr;
    part.out = b.out + n;
    if constexpr (E != ElementType::kFloat32) {
      for (int64_t i = 0; i < part.n; ++i) {
        to_float_typed<E>(static_cast<const char*>(part.weight) + i * w_bytes, b.k, panel + i * b.k);
      }
      part.weight = panel;
    }
    for (int64_t begin = 0; begin < b.k || begin == 0; begin += length) {
      const Segment k{begin, begin + length < b.k ? begin + length : b.k, begin == 0, begin + length >= b.k};
      for (int64_t row = 0; row < b.rows; row += kTileRows) {
        linear_rows<ElementType::kFloat32, false>(part, row, b.rows - row < kTileRows ? b.rows - row : kTileRows, k,
                                                  state + row * kTileCols * Simd::W);
      }
    }
  }
}

static void linear(const LinearBlock& b) {
  switch (b.type) {
    case ElementType::kFloat32:
      return linear_typed<ElementType::kFloat32>(b);
    case ElementType::kBFloat16:
      return linear_typed<ElementType::kBFloat16>(b);
    case ElementType::kFloat16:
      return linear_typed<ElementType::kFloat16>(b);
    case ElementType::kQ8_0:
      return linear_typed<ElementType::kQ8_0>(b);
    case ElementType::kQ4_0:
      return linear_typed<ElementType::kQ4_0>(b);
    case ElementType::kQ4_1:
      return linear_typed<ElementType::kQ4_1>(b);
    case ElementType::kQ8_0Planes:
      return linear_int16<ElementType::kQ8_0Planes>(b);
    case ElementType::kQ4_0Planes:
      return linear_int16<ElementType::kQ4_0Planes>(b);
    case ElementType::kQ4_1Planes:
      return linear_int16<ElementType::kQ4_1Planes>(b);
  }
}
