// SPDX-License-Identifier: Apache-2.0
#include "archive/restore.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "errors.h"
#include "kernels/dequant.h"
#include "kernels/quantize.h"

namespace chatspace {
namespace {

[[noreturn]] void contradiction(const std::string& where, const std::string& message) {
  throw Error("ERR_CONVERT_PLAN", text("weight ", where, ": ", message), {{"weight", where}});
}

// type_bytes knows floats as well as blocks.
int64_t bytes_of(const std::string& type, int64_t elements) {
  return static_cast<int64_t>(type_bytes(type, elements));
}

bool is_block_target(const std::string& type) { return type == "Q8_0" || type == "Q4_1"; }

template <typename T>
void round_row(const float* in, int64_t count, char* out) {
  auto* to = reinterpret_cast<T*>(out);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(in[i]);
}

void write_row(const std::string& type, const float* in, int64_t width, char* out) {
  if (type == "F32") {
    std::memcpy(out, in, static_cast<size_t>(width) * sizeof(float));
  } else if (type == "F16") {
    round_row<at::Half>(in, width, out);
  } else if (type == "BF16") {
    round_row<at::BFloat16>(in, width, out);
  } else {
    quantize_row(type == "Q8_0" ? ElementType::kQ8_0 : ElementType::kQ4_1, in, width, out);
  }
}

}  // namespace

int64_t restored_bytes(const std::string& type, int64_t elements) {
  return is_float_type(type) || is_block_target(type) ? bytes_of(type, elements) : 0;
}

void restore(const StoredWeight& weight, const std::string& type, const std::string& where, char* out,
             const PartDone& done) {
  if (weight.shape.size() != 2) contradiction(where, text("only matrices are stored as ", type));
  const int64_t rows = weight.shape[0];
  const int64_t width = weight.shape[1];
  const int64_t from_row = bytes_of(weight.type, width);
  const int64_t to_row = restored_bytes(type, width);
  if (from_row <= 0 || to_row <= 0)
    contradiction(where, text("rows of ", width, " are not whole blocks of ", weight.type, " and ", type));
  const auto* in = static_cast<const char*>(weight.tensor.const_data_ptr());
  // Parts of some megabytes, so that neither side has to be in memory as a whole.
  constexpr int64_t kPartBytes = int64_t{4} << 20;
  const int64_t part = std::max<int64_t>(1, kPartBytes / std::max(from_row, to_row));
  for (int64_t first = 0; first < rows; first += part) {
    const int64_t last = std::min(first + part, rows);
    at::parallel_for(first, last, 8, [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(width));
      for (int64_t row = begin; row < end; ++row) {
        dequantize(weight.type, in + row * from_row, width, values.data());
        write_row(type, values.data(), width, out + row * to_row);
      }
    });
    const auto count = static_cast<size_t>(last - first);
    done(in + first * from_row, count * static_cast<size_t>(from_row), out + first * to_row,
         count * static_cast<size_t>(to_row));
  }
}

}  // namespace chatspace
