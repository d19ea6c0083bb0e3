// SPDX-License-Identifier: Apache-2.0
// Products with bfloat16 weights on a matrix unit, at the precision of float32 activations.
//
// A float32 is the exact sum of three bfloat16 numbers (8 + 8 + 8 bits of its significand, cut off, not
// rounded, so that none overflows), hence x . w = lo . w + mid . w + hi . w with exact products. Weights
// are the left operand, sixteen rows as they are stored; the limbs of sixteen rows of x are the right one,
// packed once: a column of a tile is a row of x.
//
// Batch invariance: a column's sums never see another column, and K is walked in pieces of 32, in each
// lo, mid, hi, whatever the number of rows. One row takes the same steps with tiles of one column.
//
// Bound, u = 2^-24: a piece adds 16 products to each of two chains, joins the chains, and joins the sum:
// |error| <= (3 * ceil(K / 32) + 17) * u * sum |x| |w|, plus what the unit takes for zero: of x, of a weight
// and of every sum, what is below 2^-126. An infinite weight times a number of few bits is NaN (infinity
// times a limb of zero), where float32 has infinity.

constexpr int64_t kTilePiece = 32;  // K of one step
constexpr int64_t kTileSide = 16;
constexpr int64_t kTileDwords = kTileSide * kTileSide;
constexpr int64_t kLimbs = 3;

static inline int64_t tile_pieces(int64_t k) { return (k + kTilePiece - 1) / kTilePiece; }

// 32-bit words that pack_limbs writes.
static inline int64_t packed_limbs_words(int64_t rows, int64_t k) { return rows * tile_pieces(k) * kLimbs * kTileSide; }

// out[j][i] = in[i][j], strides in words.
static inline void transpose_words(const uint32_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out,
                                   int64_t out_stride) {
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t i = 0; i < whole_rows; i += 4) {
    for (int64_t j = 0; j < whole_columns; j += 4) {
      __m128i v[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) v[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + (i + r) * in_stride + j));
      const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpackhi_epi32(v[0], v[1]);
      const __m128i c = _mm_unpacklo_epi32(v[2], v[3]), d = _mm_unpackhi_epi32(v[2], v[3]);
      const __m128i t[4] = {_mm_unpacklo_epi64(a, c), _mm_unpackhi_epi64(a, c), _mm_unpacklo_epi64(b, d),
                            _mm_unpackhi_epi64(b, d)};
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + (j + r) * out_stride + i), t[r]);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) out[j * out_stride + i] = in[i * in_stride + j];
  }
}

// The limbs of 32 numbers, two to a word (the lower half first), lo then mid then hi.
static inline void split_limbs(const float* x, uint32_t* pairs) {
  uint32_t limb[kLimbs][kTilePiece];
  for (int i = 0; i < kTilePiece; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    // A quiet bit keeps a NaN one without its lower half.
    const uint32_t high = (bits & 0xffff0000u) | ((bits & 0x7fffffffu) > 0x7f800000u ? 0x00400000u : 0u);
    float hi, mid, rest = x[i];
    std::memcpy(&hi, &high, 4);
    rest = finite ? rest - hi : 0.0f;
    uint32_t middle, low;
    std::memcpy(&middle, &rest, 4);
    middle &= 0xffff0000u;
    std::memcpy(&mid, &middle, 4);
    rest -= mid;
    std::memcpy(&low, &rest, 4);
    limb[0][i] = low;
    limb[1][i] = middle;
    limb[2][i] = high;
  }
  for (int l = 0; l < kLimbs; ++l) {
    for (int j = 0; j < kTileSide; ++j) pairs[l * kTileSide + j] = limb[l][2 * j] >> 16 | (limb[l][2 * j + 1] & 0xffff0000u);
  }
}

// Per sixteen rows of x (the last panel may have fewer columns): per piece of K: three tiles of 16 pairs
// by columns. A short last piece is filled with zeros.
static inline void pack_limbs(const float* x, int64_t x_stride, int64_t rows, int64_t k, uint32_t* out) {
  alignas(64) uint32_t pairs[kTileSide][kLimbs * kTileSide];
  for (int64_t row = 0; row < rows; row += kTileSide) {
    const int64_t columns = rows - row < kTileSide ? rows - row : kTileSide;
    for (int64_t i = 0; i < k; i += kTilePiece) {
      for (int64_t c = 0; c < columns; ++c) {
        const float* from = x + (row + c) * x_stride + i;
        if (i + kTilePiece <= k) {
          split_limbs(from, pairs[c]);
        } else {
          float padded[kTilePiece] = {};
          std::memcpy(padded, from, static_cast<size_t>(k - i) * sizeof(float));
          split_limbs(padded, pairs[c]);
        }
      }
      for (int l = 0; l < kLimbs; ++l) {
        transpose_words(pairs[0] + l * kTileSide, kLimbs * kTileSide, columns, kTileSide, out, columns);
        out += kTileSide * columns;
      }
    }
  }
}

// Registers: sums 0..3 (weights x rows), weights 4 and 5, rows of x 6 and 7.
template <class T, int NA, int NB>
static inline void tile_step(const char* w, int64_t w_stride, const uint32_t* b0, int64_t columns0, const uint32_t* b1,
                             int64_t columns1) {
  T::template load<4>(w, w_stride);
  if constexpr (NA == 2) T::template load<5>(w + kTileSide * w_stride, w_stride);
  for (int l = 0; l < kLimbs; ++l) {
    T::template load<6>(b0 + l * kTileSide * columns0, columns0 * 4);
    T::template dot_bf16<0, 4, 6>();
    if constexpr (NA == 2) T::template dot_bf16<2, 5, 6>();
    if constexpr (NB == 2) {
      T::template load<7>(b1 + l * kTileSide * columns1, columns1 * 4);
      T::template dot_bf16<1, 4, 7>();
      if constexpr (NA == 2) T::template dot_bf16<3, 5, 7>();
    }
  }
}

// Up to 32 weight rows by up to 32 rows of x. The tiles are configured for these very numbers.
template <class T, int NA, int NB, bool Prefetch>
static void tile_block(const char* w, int64_t w_rows, int64_t k, const uint32_t* panel, int64_t x_rows,
                       const float* bias, float* out, int64_t out_stride) {
  const int64_t w_stride = 2 * k, pieces = tile_pieces(k);
  const int64_t columns0 = NB == 2 ? kTileSide : x_rows, columns1 = x_rows - kTileSide;
  const uint32_t* b0 = panel;
  const uint32_t* b1 = NB == 2 ? panel + packed_limbs_words(kTileSide, k) : nullptr;
  T::template zero<0>();
  if constexpr (NB == 2) T::template zero<1>();
  if constexpr (NA == 2) T::template zero<2>();
  if constexpr (NA == 2 && NB == 2) T::template zero<3>();
  for (int64_t p = 0; p < pieces; ++p) {
    const char* from = w + p * kTilePiece * 2;
    if ((p + 1) * kTilePiece <= k) {
      if constexpr (Prefetch) {
        // The same columns of the next block's rows.
        for (int64_t r = 0; r < w_rows; ++r) _mm_prefetch(from + (w_rows + r) * w_stride, _MM_HINT_T0);
      }
      tile_step<T, NA, NB>(from, w_stride, b0, columns0, b1, columns1);
    } else {
      // What follows a row is the next one, and a zero of x does not silence a NaN in it.
      alignas(64) char rest[2 * kTileSide][2 * kTilePiece] = {};
      for (int64_t r = 0; r < w_rows; ++r) {
        std::memcpy(rest[r], from + r * w_stride, static_cast<size_t>(k - p * kTilePiece) * 2);
      }
      tile_step<T, NA, NB>(rest[0], 2 * kTilePiece, b0, columns0, b1, columns1);
    }
    b0 += kLimbs * kTileSide * columns0;
    if constexpr (NB == 2) b1 += kLimbs * kTileSide * columns1;
  }
  alignas(64) uint32_t sums[4][kTileDwords];
  T::template store<0>(sums[0], columns0 * 4);
  if constexpr (NB == 2) T::template store<1>(sums[1], columns1 * 4);
  if constexpr (NA == 2) T::template store<2>(sums[2], columns0 * 4);
  if constexpr (NA == 2 && NB == 2) T::template store<3>(sums[3], columns1 * 4);
  for (int a = 0; a < NA; ++a) {
    const int64_t n = a == 0 && NA == 2 ? kTileSide : w_rows - a * kTileSide;
    for (int b = 0; b < NB; ++b) {
      const int64_t columns = b == 0 ? columns0 : columns1;
      uint32_t turned[kTileDwords];
      transpose_words(sums[2 * a + b], columns, n, columns, turned, kTileSide);
      for (int64_t c = 0; c < columns; ++c) {
        float* to = out + (b * kTileSide + c) * out_stride + a * kTileSide;
        std::memcpy(to, turned + c * kTileSide, static_cast<size_t>(n) * 4);
        if (bias != nullptr) {
          for (int64_t i = 0; i < n; ++i) to[i] += bias[a * kTileSide + i];
        }
      }
    }
  }
}

// The block of bfloat16 weights by rows that pack_limbs has packed.
template <class T>
static void linear_tiles(const LinearBlock& b, const uint32_t* packed) {
  constexpr int64_t kSide = 2 * kTileSide;
  int64_t configured_w = 0, configured_x = 0;
  for (int64_t n = 0; n < b.n; n += kSide) {
    const int64_t w_rows = b.n - n < kSide ? b.n - n : kSide;
    const char* w = static_cast<const char*>(b.weight) + n * 2 * b.k;
    const float* bias = b.bias != nullptr ? b.bias + n : nullptr;
    for (int64_t row = 0; row < b.rows; row += kSide) {
      const int64_t x_rows = b.rows - row < kSide ? b.rows - row : kSide;
      const uint32_t* panel = packed + packed_limbs_words(row, b.k);
      float* out = b.out + row * b.out_stride + n;
      const bool a2 = w_rows > kTileSide, b2 = x_rows > kTileSide;
      if (w_rows != configured_w || x_rows != configured_x) {
        TileConfig config;
        const int64_t w0 = a2 ? kTileSide : w_rows, w1 = w_rows - w0, x0 = b2 ? kTileSide : x_rows, x1 = x_rows - x0;
        config.set(0, w0, 4 * x0);
        if (b2) config.set(1, w0, 4 * x1);
        if (a2) config.set(2, w1, 4 * x0);
        if (a2 && b2) config.set(3, w1, 4 * x1);
        config.set(4, w0, 2 * kTilePiece);
        if (a2) config.set(5, w1, 2 * kTilePiece);
        config.set(6, kTileSide, 4 * x0);
        if (b2) config.set(7, kTileSide, 4 * x1);
        T::configure(config);
        configured_w = w_rows;
        configured_x = x_rows;
      }
      // With one pass over the weights they come from memory; later passes find them in the cache.
      if (b.rows <= kTileSide) {
        a2 ? tile_block<T, 2, 1, true>(w, w_rows, b.k, panel, x_rows, bias, out, b.out_stride)
           : tile_block<T, 1, 1, false>(w, w_rows, b.k, panel, x_rows, bias, out, b.out_stride);
      } else if (b2) {
        a2 ? tile_block<T, 2, 2, false>(w, w_rows, b.k, panel, x_rows, bias, out, b.out_stride)
           : tile_block<T, 1, 2, false>(w, w_rows, b.k, panel, x_rows, bias, out, b.out_stride);
      } else {
        a2 ? tile_block<T, 2, 1, false>(w, w_rows, b.k, panel, x_rows, bias, out, b.out_stride)
           : tile_block<T, 1, 1, false>(w, w_rows, b.k, panel, x_rows, bias, out, b.out_stride);
      }
    }
  }
  T::release();
}
