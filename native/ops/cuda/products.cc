// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/products.h"

#include <algorithm>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/launches.h"

namespace chatspace::cuda {
namespace {

// Rows cuBLAS sees in reproducible mode. Few enough that one tile of any of its kernels holds them all, so
// that the place of a row in the tile decides nothing but which lane computes it.
constexpr int64_t kTileRows = 32;

// Up to here a product with blocks reads them directly; above they are unpacked for cuBLAS, which reads them
// once for all rows. Chosen by counting bytes, not measured.
constexpr int64_t kDirectRows = 16;

// What is unpacked of a matrix at a time.
constexpr int64_t kPanelBytes = int64_t{32} << 20;

void multiply_once(at::Tensor& out, const at::Tensor& x, const at::Tensor& transposed, const OptionalTensor& bias) {
  if (bias.has_value() && bias->defined()) {
    at::addmm_out(out, bias->to(x.scalar_type()), x, transposed);
  } else {
    at::mm_out(out, x, transposed);
  }
}

BlockMatrix block_matrix(const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2 && weight.is_contiguous(), "chatspace cuda: expected a dense matrix of blocks, got ",
              weight.sizes());
  BlockMatrix matrix{};
  int64_t bytes = 0;
  switch (weight.scalar_type()) {
    case kQ4_0Tag:
      matrix.type = BlockType::kQ4_0;
      bytes = 18;
      break;
    case kQ4_1Tag:
      matrix.type = BlockType::kQ4_1;
      bytes = 20;
      break;
    default:
      matrix.type = BlockType::kQ8_0;
      bytes = 34;
  }
  const int64_t row = weight.size(1) * weight.element_size();
  TORCH_CHECK(row % bytes == 0, "chatspace cuda: a row of blocks is ", row, " bytes, no whole blocks of ", bytes);
  matrix.planes = weight.const_data_ptr();
  matrix.rows = weight.size(0);
  matrix.row_blocks = row / bytes;
  TORCH_CHECK(reinterpret_cast<uintptr_t>(matrix.planes) % 16 == 0, "chatspace cuda: a matrix of blocks is not aligned");
  return matrix;
}

}  // namespace

bool is_blocks(const at::Tensor& weight) {
  const at::ScalarType type = weight.scalar_type();
  return type == kQ8_0Tag || type == kQ4_0Tag || type == kQ4_1Tag;
}

void multiply(at::Tensor& out, const at::Tensor& x, const at::Tensor& transposed, const OptionalTensor& bias) {
  if (!reproducible()) return multiply_once(out, x, transposed, bias);
  const int64_t rows = x.size(0);
  const int64_t whole = (rows + kTileRows - 1) / kTileRows * kTileRows;
  const at::Tensor padded = whole == rows ? x : at::constant_pad_nd(x, {0, 0, 0, whole - rows});
  const at::Tensor made = at::empty({whole, transposed.size(1)}, x.options());
  for (int64_t first = 0; first < whole; first += kTileRows) {
    at::Tensor tile = made.narrow(0, first, kTileRows);
    multiply_once(tile, padded.narrow(0, first, kTileRows), transposed, bias);
  }
  out.copy_(made.narrow(0, 0, rows));
}

void project(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  if (is_blocks(weight)) return project_blocks(out, x, weight, bias);
  // A weight of another dtype (an archive that mixes them) is converted at each call: right, and slow.
  multiply(out, x, weight.to(x.scalar_type()).t(), bias);
}

void project_blocks(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  const BlockMatrix matrix = block_matrix(weight);
  const int64_t width = matrix.row_blocks * 32;
  const int64_t rows = x.size(0);
  TORCH_CHECK(x.size(1) == width, "chatspace cuda: expected x of width ", width, ", got ", x.sizes());
  TORCH_CHECK(out.size(0) == rows && out.size(1) == matrix.rows && (rows < 2 || out.stride(1) == 1 || out.size(1) < 2),
              "chatspace cuda: a result of shape ", out.sizes(), " does not take ", rows, " rows of ", matrix.rows);
  const cudaStream_t stream = stream_of(x);
  // The direct kernel sums a row in one order whatever the batch is.
  if (rows <= kDirectRows || reproducible()) {
    at::Tensor in = x.contiguous();
    if (reinterpret_cast<uintptr_t>(in.const_data_ptr()) % 16 != 0) in = in.clone();
    const OptionalTensor dense_bias = dense(bias);
    QuantLinearArgs args{};
    args.weight = matrix;
    args.x = reads(in);
    args.bias = reads(dense_bias);
    args.out = writes(out);
    args.out_stride = out.stride(0);
    args.rows = rows;
    C10_CUDA_CHECK(quant_linear(args, stream));
    return;
  }
  const int64_t panel_rows =
      std::clamp<int64_t>(kPanelBytes / (width * static_cast<int64_t>(x.element_size())), 1, matrix.rows);
  const at::Tensor panel = at::empty({panel_rows, width}, x.options());
  for (int64_t first = 0; first < matrix.rows; first += panel_rows) {
    const int64_t count = std::min(panel_rows, matrix.rows - first);
    const at::Tensor part = panel.narrow(0, 0, count);
    C10_CUDA_CHECK(unpack({matrix, first, count, writes(part)}, stream));
    at::Tensor columns = out.narrow(1, first, count);
    OptionalTensor part_bias;
    if (bias.has_value() && bias->defined()) part_bias = bias->narrow(0, first, count);
    multiply_once(columns, x, part.t(), part_bias);
  }
}

at::Tensor embed_blocks(const at::Tensor& tokens, const at::Tensor& table) {
  TORCH_CHECK(tokens.scalar_type() == at::kLong && tokens.dim() == 1, "chatspace cuda embed: expected [T] int64 tokens, ",
              "got ", tokens.sizes(), " ", tokens.scalar_type());
  const BlockMatrix matrix = block_matrix(table);
  const at::Tensor ids = tokens.contiguous();
  at::Tensor out = at::empty({ids.numel(), matrix.row_blocks * 32}, table.options().dtype(at::kFloat));
  C10_CUDA_CHECK(quant_embed({ids.const_data_ptr<int64_t>(), matrix, out.mutable_data_ptr<float>(), ids.numel()},
                             stream_of(table)));
  return out;
}

}  // namespace chatspace::cuda
