// SPDX-License-Identifier: Apache-2.0
// Matrix product of weights in planes and activations in int16 (int16_rows.h): a block's sum is exact in
// int32, then one multiply-add of float32 a lane with (weight scale * activation scale). An element's
// arithmetic is the same in every tile: per vector of blocks first what minima or zero points add, then the
// blocks in order of K, then the lane sum.

static void quantize_int16(const float* x, int64_t k, void* row) {
  auto* q = static_cast<int16_t*>(row);
  auto* scale = reinterpret_cast<float*>(q + k);
  float* sum = scale + int16_padded_blocks(k);
  const int64_t blocks = k / kQuantBlock;
  for (int64_t b = 0; b < blocks; ++b) Int16::quantize(x + b * kQuantBlock, q + b * kQuantBlock, scale + b, sum + b);
  for (int64_t b = blocks; b < int16_padded_blocks(k); ++b) scale[b] = sum[b] = 0.0f;
}

// The scales of W blocks from block g on, multiplied with those of every row of x, and what the minima or
// zero points add.
template <int MR, int NR, ElementType E>
static inline __attribute__((always_inline)) void int16_factors(const Int16Row* x, const uint8_t* w, int64_t w_bytes,
                                                                int64_t blocks, int64_t g, int64_t ahead,
                                                                float (*f)[NR][Simd::W], Simd::V (*acc)[NR]) {
  const int64_t count = blocks - g;
#pragma GCC unroll 8
  for (int n = 0; n < NR; ++n) {
    const uint8_t* scales = w + n * w_bytes + 2 * g;
    if (ahead != 0) Simd::prefetch(scales + ahead);
    const Simd::V d = Int16::halves(scales, count);
    Simd::V least = d;
    if constexpr (E == ElementType::kQ4_0Planes) least = Simd::mul(d, Simd::set1(-8.0f));
    if constexpr (E == ElementType::kQ4_1Planes) least = Int16::halves(scales + 2 * blocks, count);
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
      Simd::store(f[m][n], Simd::mul(d, Simd::load(x[m].scale + g)));
      if constexpr (E != ElementType::kQ8_0Planes) acc[m][n] = Simd::fma(least, Simd::load(x[m].sum + g), acc[m][n]);
    }
  }
}

template <int MR, int NR, ElementType E, bool Prefetch>
static inline void int16_tile(const char* rows, int64_t x_bytes, int64_t k, const uint8_t* w, int64_t w_bytes,
                              const float* bias, float* out, int64_t out_stride) {
  constexpr int W = Simd::W;
  constexpr int S = Int16::kStep<E>;
  constexpr int64_t kLevelBytes = E == ElementType::kQ8_0Planes ? 32 : 16;
  const int64_t blocks = k / kQuantBlock;
  const uint8_t* levels = w + blocks * (E == ElementType::kQ4_1Planes ? 4 : 2);
  Int16Row x[MR];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) x[m] = int16_row(rows + m * x_bytes, k);
  Simd::V acc[MR][NR];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) acc[m][n] = Simd::zero();
  }
  alignas(64) float f[MR][NR][W];
  // The same columns of a later tile's rows, at least a few hundred nanoseconds away.
  const int64_t tile_bytes = NR * w_bytes;
  const int64_t ahead = Prefetch && tile_bytes > 0 ? (4096 + tile_bytes - 1) / tile_bytes * tile_bytes : 0;
  const auto step = [&](int64_t b, int i, int64_t left) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) {
      const uint8_t* at = levels + n * w_bytes + b * kLevelBytes;
      const auto q = Int16::levels<E>(at, left);
      if constexpr (Prefetch) Simd::prefetch(at + ahead);
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) {
        const auto a = Int16::activations<E>(x[m].q + b * kQuantBlock, left);
        acc[m][n] = Simd::fma(Int16::dot<E>(q, a), Int16::factor<E>(&f[m][n][i]), acc[m][n]);
      }
    }
  };
  int64_t g = 0;
  for (; g + W <= blocks; g += W) {
    int16_factors<MR, NR, E>(x, w, w_bytes, blocks, g, ahead, f, acc);
#pragma GCC unroll 2
    for (int i = 0; i < W; i += S) step(g + i, i, S);
  }
  if (g < blocks) {
    int16_factors<MR, NR, E>(x, w, w_bytes, blocks, g, ahead, f, acc);
    const int count = static_cast<int>(blocks - g);
    int i = 0;
    for (; i + S <= count; i += S) step(g + i, i, S);
    if (i < count) step(g + i, i, 1);
  }
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < NR; ++n) {
      const float sum = Simd::sum(acc[m][n]);
      out[m * out_stride + n] = bias != nullptr ? sum + bias[n] : sum;
    }
  }
}

#if defined(__AVX512F__)
constexpr int kInt16Rows = 4;
constexpr int kInt16Cols = 4;
constexpr int kInt16VectorCols = 4;
#elif defined(__AVX2__)
constexpr int kInt16Rows = 4;
constexpr int kInt16Cols = 2;
constexpr int kInt16VectorCols = 4;
#else
constexpr int kInt16Rows = 2;
constexpr int kInt16Cols = 2;
constexpr int kInt16VectorCols = 2;
#endif

// Columns [from, to) for MR rows.
template <int MR, int NR, ElementType E, bool Prefetch>
static inline void int16_columns(const LinearBlock& b, int64_t row, int64_t from, int64_t to) {
  const int64_t w_bytes = row_bytes(E, b.k), x_bytes = int16_row_bytes(b.k);
  const char* x = static_cast<const char*>(b.x_int16) + row * x_bytes;
  const auto* w = static_cast<const uint8_t*>(b.weight);
  float* out = b.out + row * b.out_stride;
  int64_t n = from;
  for (; n + NR <= to; n += NR) {
    int16_tile<MR, NR, E, Prefetch>(x, x_bytes, b.k, w + n * w_bytes, w_bytes,
                                    b.bias != nullptr ? b.bias + n : nullptr, out + n, b.out_stride);
  }
  for (; n < to; ++n) {
    int16_tile<MR, 1, E, false>(x, x_bytes, b.k, w + n * w_bytes, w_bytes, b.bias != nullptr ? b.bias + n : nullptr,
                                out + n, b.out_stride);
  }
}

template <ElementType E>
static void linear_int16(const LinearBlock& b) {
  if (b.rows == 1) return int16_columns<1, kInt16VectorCols, E, true>(b, 0, 0, b.n);
  // A few weight rows stay in the first-level cache while all rows of x pass by.
  for (int64_t n = 0; n < b.n; n += kInt16Cols) {
    const int64_t to = n + kInt16Cols < b.n ? n + kInt16Cols : b.n;
    int64_t row = 0;
    for (; row + kInt16Rows <= b.rows; row += kInt16Rows) {
      int16_columns<kInt16Rows, kInt16Cols, E, false>(b, row, n, to);
    }
    if (kInt16Rows > 2 && row + 2 <= b.rows) {
      int16_columns<2, kInt16Cols, E, false>(b, row, n, to);
      row += 2;
    }
    if (row < b.rows) int16_columns<1, kInt16Cols, E, false>(b, row, n, to);
  }
}
