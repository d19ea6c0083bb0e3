// SPDX-License-Identifier: Apache-2.0
// Bodies of the kernels over block matrices (kernels/quant_planes.h). The unit of work is an octet, eight
// weights of one block: four octets a block, one load of 8 (Q8_0) or 4 bytes a lane, lanes side by side.
// Weights are decoded to the float32 values that dequantising gives, bit for bit.
#pragma once

#include <cmath>

#include "kernels/cuda/storage.cuh"

namespace chatspace::cuda {

// a * b + c rounded twice, as the reference does; the compiler must not fuse it.
CHATSPACE_FN float scaled_plus(float a, float b, float c) {
#if defined(__CUDACC__)
  return __fadd_rn(__fmul_rn(a, b), c);
#else
  const float product = a * b;
  return product + c;
#endif
}

CHATSPACE_FN float scaled(float a, float b) {
#if defined(__CUDACC__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// Where in its block the first weights of half `half` (0, 1; four weights each) of octet `octet` (0 .. 3)
// stand. A byte of a 4-bit block holds weights i and i + 16.
template <BlockType T>
CHATSPACE_FN int octet_start(int octet, int half) {
  return T == BlockType::kQ8_0 ? 8 * octet + 4 * half : 4 * octet + 16 * half;
}

template <BlockType T>
CHATSPACE_FN void decode_octet(const BlockMatrix& matrix, int64_t block, int octet, float (&weights)[8]) {
  const int64_t blocks = matrix.rows * matrix.row_blocks;
  const auto* quants = static_cast<const uint8_t*>(matrix.planes);
  const auto* scales = reinterpret_cast<const Float16*>(quants + blocks * (T == BlockType::kQ8_0 ? 32 : 16));
  const float scale = to_float(scales[block]);
  if constexpr (T == BlockType::kQ8_0) {
    const uint64_t bits = reinterpret_cast<const uint64_t*>(quants)[block * 4 + octet];
    CHATSPACE_UNROLL
    for (int i = 0; i < 8; ++i) {
      weights[i] = scaled(scale, static_cast<float>(static_cast<int8_t>(static_cast<uint8_t>(bits >> (8 * i)))));
    }
  } else {
    const uint32_t bits = reinterpret_cast<const uint32_t*>(quants)[block * 4 + octet];
    const float minimum = T == BlockType::kQ4_1 ? to_float(scales[blocks + block]) : 0.0f;
    CHATSPACE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int level = static_cast<int>((bits >> (8 * (i & 3) + (i < 4 ? 0 : 4))) & 15u);
      weights[i] = T == BlockType::kQ4_1 ? scaled_plus(scale, static_cast<float>(level), minimum)
                                         : scaled(scale, static_cast<float>(level - 8));
    }
  }
}

// Four neighbours in one load.
template <class X>
struct alignas(4 * sizeof(X)) Quad {
  X value[4];
};

// Output columns a warp takes: with one row the weights are read once and parallelism is what counts, with
// more the row's values are shared between columns.
template <int R>
constexpr int kQuantColumns = R == 1 ? 2 : 4;

// Rows [tile * R, tile * R + R) of x times kQuantColumns<R> rows of the weight a warp. A row is summed in the
// same order whatever R is and whoever stands beside it. No barrier of the block: warps beyond the last
// column leave.
template <BlockType T, int R, class X, class Block>
CHATSPACE_FN void quant_linear(Block& block, const QuantLinearArgs& args, int64_t group, int64_t tile) {
  constexpr int C = kQuantColumns<R>;
  const BlockMatrix& matrix = args.weight;
  const int64_t first = (group * block.warps() + block.warp()) * C;
  if (first >= matrix.rows) return;
  const int64_t first_row = tile * R;
  const int rows = static_cast<int>(args.rows - first_row < R ? args.rows - first_row : R);
  const int64_t width = matrix.row_blocks * 32;
  const X* x = static_cast<const X*>(args.x.data) + first_row * width;

  float sums[R][C];
  CHATSPACE_UNROLL
  for (int r = 0; r < R; ++r) {
    CHATSPACE_UNROLL
    for (int c = 0; c < C; ++c) sums[r][c] = 0.0f;
  }
  for (int64_t at = block.lane(); at < matrix.row_blocks * 4; at += 32) {
    const int64_t in_row = at >> 2;
    const int octet = static_cast<int>(at & 3);
    float weights[C][8];
    CHATSPACE_UNROLL
    for (int c = 0; c < C; ++c) {
      // Past the end the last column is read again and not kept.
      const int64_t column = first + c < matrix.rows ? first + c : matrix.rows - 1;
      decode_octet<T>(matrix, column * matrix.row_blocks + in_row, octet, weights[c]);
    }
    CHATSPACE_UNROLL
    for (int r = 0; r < R; ++r) {
      if (r >= rows) break;
      const X* part = x + r * width + in_row * 32;
      CHATSPACE_UNROLL
      for (int half = 0; half < 2; ++half) {
        const auto quad = *reinterpret_cast<const Quad<X>*>(part + octet_start<T>(octet, half));
        CHATSPACE_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float value = to_float(quad.value[i]);
          CHATSPACE_UNROLL
          for (int c = 0; c < C; ++c) sums[r][c] = fmaf(weights[c][4 * half + i], value, sums[r][c]);
        }
      }
    }
  }
  CHATSPACE_UNROLL
  for (int r = 0; r < R; ++r) {
    if (r >= rows) break;
    CHATSPACE_UNROLL
    for (int c = 0; c < C; ++c) {
      const float sum = block.warp_sum(sums[r][c]);
      if (block.lane() != 0 || first + c >= matrix.rows) continue;
      const float bias = args.bias.data == nullptr ? 0.0f : load(args.bias, first + c);
      store(args.out, (first_row + r) * args.out_stride + first + c, sum + bias);
    }
  }
}

// One octet of rows [first_row, first_row + rows) of the matrix into args.out.
template <BlockType T>
CHATSPACE_FN void unpack_octet(const UnpackArgs& args, int64_t index) {
  const int64_t at = args.first_row * args.weight.row_blocks * 4 + index;
  float weights[8];
  decode_octet<T>(args.weight, at >> 2, static_cast<int>(at & 3), weights);
  CHATSPACE_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t start = (index >> 2) * 32 + octet_start<T>(static_cast<int>(index & 3), half);
    CHATSPACE_UNROLL
    for (int i = 0; i < 4; ++i) store(args.out, start + i, weights[4 * half + i]);
  }
}

// Row `row` of an embedding from a table in blocks; NaN for an id outside it.
template <BlockType T, class Block>
CHATSPACE_FN void embed_row(Block& block, const QuantEmbedArgs& args, int64_t row) {
  const int64_t id = args.ids[row];
  const bool known = id >= 0 && id < args.table.rows;
  const int64_t width = args.table.row_blocks * 32;
  for (int64_t at = block.rank(); at < args.table.row_blocks * 4; at += block.size()) {
    const int octet = static_cast<int>(at & 3);
    float weights[8] = {};
    if (known) decode_octet<T>(args.table, id * args.table.row_blocks + (at >> 2), octet, weights);
    CHATSPACE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float* out = args.out + row * width + (at >> 2) * 32 + octet_start<T>(octet, half);
      CHATSPACE_UNROLL
      for (int i = 0; i < 4; ++i) out[i] = known ? weights[4 * half + i] : NAN;
    }
  }
}

}  // namespace chatspace::cuda
