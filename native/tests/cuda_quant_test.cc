// SPDX-License-Identifier: Apache-2.0
// The bodies of the CUDA kernels over block matrices on an emulated block, against the CPU operators on the
// same blocks: ragged shapes, every activation dtype, every row count a launch distinguishes.
#include <random>

#include "decoder/own_decoder.h"
#include "kernels/cuda/quant_row.cuh"
#include "kernels/dequant.h"
#include "kernels/quant_planes.h"
#include "kernels/quantize.h"
#include "ops/backend.h"
#include "tests/check.h"
#include "tests/emulated_block.h"

namespace chatspace::testing {
namespace {

constexpr int kWarps = 4;

struct Form {
  ElementType type;
  cuda::BlockType device_type;
  at::ScalarType tag;
  const char* name;
};
constexpr Form kForms[] = {{ElementType::kQ8_0, cuda::BlockType::kQ8_0, kQ8_0Tag, "Q8_0"},
                           {ElementType::kQ4_0, cuda::BlockType::kQ4_0, kQ4_0Tag, "Q4_0"},
                           {ElementType::kQ4_1, cuda::BlockType::kQ4_1, kQ4_1Tag, "Q4_1"}};

// One matrix in both orders: for the CPU's operators and for a device.
struct Blocks {
  at::Tensor gguf;    // [rows, units]
  at::Tensor planes;  // the same bytes
  cuda::BlockMatrix matrix;

  Blocks(const Form& form, int64_t rows, int64_t row_blocks) {
    const int64_t width = row_blocks * kQuantBlock;
    const at::Tensor dense = at::randn({rows, width});
    const int64_t bytes = row_bytes(form.type, width);
    const at::Tensor raw = at::empty({rows * bytes}, at::TensorOptions().dtype(at::kByte));
    quantize_row(form.type, dense.const_data_ptr<float>(), rows * width, raw.mutable_data_ptr());
    planes = at::empty_like(raw);
    blocks_to_planes(form.type, raw.const_data_ptr(), rows * row_blocks, planes.mutable_data_ptr());
    gguf = raw.view(form.tag).view({rows, -1});
    matrix = {planes.const_data_ptr(), form.device_type, rows, row_blocks};
  }
};

cuda::Dtype dtype_of(const at::Tensor& t) {
  return t.scalar_type() == at::kFloat      ? cuda::Dtype::kFloat32
         : t.scalar_type() == at::kBFloat16 ? cuda::Dtype::kBFloat16
                                            : cuda::Dtype::kFloat16;
}

template <cuda::BlockType T, int R, class X>
void launch(const cuda::QuantLinearArgs& args, uint32_t seed) {
  EmulatedBlock block(kWarps * 32, seed);
  const int64_t columns = kWarps * cuda::kQuantColumns<R>;
  for (int64_t tile = 0; tile * R < args.rows; ++tile) {
    for (int64_t group = 0; group * columns < args.weight.rows; ++group) {
      block.run([&](EmulatedBlock::Lane& lane) { cuda::quant_linear<T, R, X>(lane, args, group, tile); });
    }
  }
}

template <cuda::BlockType T, class X>
void by_rows(const cuda::QuantLinearArgs& args, int rows_each, uint32_t seed) {
  if (rows_each == 1) return launch<T, 1, X>(args, seed);
  rows_each == 4 ? launch<T, 4, X>(args, seed) : launch<T, 8, X>(args, seed);
}

template <cuda::BlockType T>
void by_dtype(const cuda::QuantLinearArgs& args, int rows_each, uint32_t seed) {
  if (args.x.dtype == cuda::Dtype::kBFloat16) return by_rows<T, cuda::BFloat16>(args, rows_each, seed);
  if (args.x.dtype == cuda::Dtype::kFloat16) return by_rows<T, cuda::Float16>(args, rows_each, seed);
  by_rows<T, float>(args, rows_each, seed);
}

// As the launch does it, with `rows_each` rows a block; columns of `out` beyond the result keep their bits.
at::Tensor emulate(const Blocks& blocks, const at::Tensor& x, const at::Tensor& bias, int rows_each, uint32_t seed) {
  const int64_t rows = x.size(0), stride = blocks.matrix.rows + 3;
  const at::Tensor wide = at::full({rows, stride}, 77.0, x.options());
  cuda::QuantLinearArgs args{};
  args.weight = blocks.matrix;
  args.x = {x.const_data_ptr(), dtype_of(x)};
  if (bias.defined()) args.bias = {bias.const_data_ptr(), dtype_of(bias)};
  args.out = {wide.mutable_data_ptr(), dtype_of(wide)};
  args.out_stride = stride;
  args.rows = rows;
  if (blocks.matrix.type == cuda::BlockType::kQ8_0) by_dtype<cuda::BlockType::kQ8_0>(args, rows_each, seed);
  if (blocks.matrix.type == cuda::BlockType::kQ4_0) by_dtype<cuda::BlockType::kQ4_0>(args, rows_each, seed);
  if (blocks.matrix.type == cuda::BlockType::kQ4_1) by_dtype<cuda::BlockType::kQ4_1>(args, rows_each, seed);
  CHECK_THAT((wide.narrow(1, blocks.matrix.rows, 3) == 77.0).all().item<bool>());
  return wide.narrow(1, 0, blocks.matrix.rows).contiguous();
}

template <cuda::BlockType T>
void unpack(const cuda::UnpackArgs& args) {
  for (int64_t i = args.rows * args.weight.row_blocks * 4 - 1; i >= 0; --i) cuda::unpack_octet<T>(args, i);
}

void unpack_any(const cuda::UnpackArgs& args) {
  if (args.weight.type == cuda::BlockType::kQ8_0) unpack<cuda::BlockType::kQ8_0>(args);
  if (args.weight.type == cuda::BlockType::kQ4_0) unpack<cuda::BlockType::kQ4_0>(args);
  if (args.weight.type == cuda::BlockType::kQ4_1) unpack<cuda::BlockType::kQ4_1>(args);
}

template <cuda::BlockType T>
void embed_rows(const cuda::QuantEmbedArgs& args) {
  EmulatedBlock block(64);
  for (int64_t row = 0; row < args.rows; ++row) {
    block.run([&](EmulatedBlock::Lane& lane) { cuda::embed_row<T>(lane, args, row); });
  }
}

at::Tensor dequantized(const Form& form, const Blocks& blocks) {
  at::Tensor out = at::empty({blocks.matrix.rows, blocks.matrix.row_blocks * kQuantBlock});
  dequantize(form.name, blocks.gguf.const_data_ptr(), out.numel(), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

TEST(cuda_block_products_match_the_cpu_operator) {
  at::manual_seed(11);
  uint32_t seed = 1;
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1}, {5, 3}, {16, 18}, {37, 9}, {130, 8}, {33, 33}};
  for (const Form& form : kForms) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const auto& [columns, row_blocks] : shapes) {
        const Blocks blocks(form, columns, row_blocks);
        const at::Tensor bias = columns % 2 == 0 ? at::Tensor() : at::randn({columns}).to(type);
        for (const auto& [rows, rows_each] : {std::pair<int64_t, int>{1, 1}, {2, 4}, {4, 4}, {7, 8}, {11, 8}}) {
          const at::Tensor x = at::randn({rows, row_blocks * kQuantBlock}).to(type);
          const at::Tensor got = emulate(blocks, x, bias, rows_each, seed++);
          const OptionalTensor cpu_bias = bias.defined() ? OptionalTensor(bias) : std::nullopt;
          const at::Tensor expected = cpu_backend().linear(x, blocks.gguf, cpu_bias);
          CHECK_THAT(got.scalar_type() == type);
          CHECK_CLOSE(got, expected.to(type), type == at::kFloat ? 2e-6 : type == at::kHalf ? 1e-3 : 8e-3,
                      std::string(form.name) + " " + std::to_string(columns) + " x " + std::to_string(row_blocks) +
                          " blocks, rows " + std::to_string(rows));
        }
      }
      report_worst(std::string("products with ") + form.name + ", " + c10::toString(type));
    }
  }
}

TEST(cuda_block_products_of_a_row_do_not_depend_on_its_neighbours) {
  at::manual_seed(12);
  for (const Form& form : kForms) {
    const Blocks blocks(form, 21, 11);
    const at::Tensor x = at::randn({9, 11 * kQuantBlock}).to(at::kBFloat16).to(at::kFloat);
    const at::Tensor together = emulate(blocks, x, {}, 8, 3);
    for (int64_t row = 0; row < x.size(0); ++row) {
      const at::Tensor alone = emulate(blocks, x.narrow(0, row, 1).contiguous(), {}, 1, 4);
      CHECK_SAME_BITS(alone[0], together[row], std::string(form.name) + " row alone");
    }
    const at::Tensor fours = emulate(blocks, x, {}, 4, 5);
    CHECK_SAME_BITS(fours, together, std::string(form.name) + " other tiles");
    // A poisoned neighbour stays at home.
    at::Tensor poisoned = x.clone();
    poisoned[4].fill_(NAN);
    const at::Tensor beside = emulate(blocks, poisoned, {}, 8, 6);
    CHECK_SAME_BITS(beside[3], together[3], "neighbour of a NaN row");
    CHECK_THAT(at::isnan(beside[4]).all().item<bool>());
  }
}

TEST(cuda_blocks_are_unpacked_and_embedded_to_the_bits_of_the_reference) {
  at::manual_seed(13);
  for (const Form& form : kForms) {
    const Blocks blocks(form, 23, 7);
    const int64_t width = 7 * kQuantBlock;
    const at::Tensor all = dequantized(form, blocks);
    // A panel in the middle, then one in half precision up to the end.
    const at::Tensor panel = at::full({9, width}, NAN);
    unpack_any({blocks.matrix, 5, 9, {panel.mutable_data_ptr(), cuda::Dtype::kFloat32}});
    CHECK_SAME_BITS(panel, all.narrow(0, 5, 9), std::string(form.name) + " panel");
    const at::Tensor half = at::empty({9, width}, at::TensorOptions().dtype(at::kBFloat16));
    unpack_any({blocks.matrix, 14, 9, {half.mutable_data_ptr(), cuda::Dtype::kBFloat16}});
    CHECK_SAME_BITS(half, all.narrow(0, 14, 9).to(at::kBFloat16), std::string(form.name) + " bfloat16 panel");

    const at::Tensor ids = at::tensor({22, 0, 7, 23, -1, 7}, at::kLong);
    at::Tensor out = at::zeros({ids.numel(), width});
    const cuda::QuantEmbedArgs args{ids.const_data_ptr<int64_t>(), blocks.matrix, out.mutable_data_ptr<float>(),
                                    ids.numel()};
    if (form.device_type == cuda::BlockType::kQ8_0) embed_rows<cuda::BlockType::kQ8_0>(args);
    if (form.device_type == cuda::BlockType::kQ4_0) embed_rows<cuda::BlockType::kQ4_0>(args);
    if (form.device_type == cuda::BlockType::kQ4_1) embed_rows<cuda::BlockType::kQ4_1>(args);
    for (const int64_t row : {0, 1, 2, 5}) {
      CHECK_SAME_BITS(out[row], all[ids[row].item<int64_t>()], std::string(form.name) + " embedding");
    }
    CHECK_THAT(at::isnan(out.narrow(0, 3, 2)).all().item<bool>());
  }
}

TEST(cuda_integer_products_are_refused_not_ignored) {
  c10::InferenceMode inference;
  LoadOptions options;
  options.path = std::string(CHATSPACE_SOURCE) + "/models/stories260k.pt";
  options.device = "cuda:0";
  options.quantize = "int8";
  options.activations = "int16";
  CHECK_THROWS(OwnDecoder(open_archive(options.path), options), "activations int16: expected device cpu, got cuda:0");
}

}  // namespace chatspace::testing
