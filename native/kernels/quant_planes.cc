// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant_planes.h"

namespace chatspace {

void blocks_to_planes(ElementType type, const void* in, int64_t blocks, void* out) {
  const auto* from = static_cast<const uint8_t*>(in);
  auto* quants = static_cast<uint8_t*>(out);
  const int64_t bytes = quant_bytes(type);
  uint8_t* scales = quants + blocks * bytes;
  uint8_t* minimums = scales + blocks * 2;
  const bool affine = type == ElementType::kQ4_1;
  for (int64_t block = 0; block < blocks; ++block) {
    std::memcpy(scales + block * 2, from, 2);
    if (affine) std::memcpy(minimums + block * 2, from + 2, 2);
    from += affine ? 4 : 2;
    std::memcpy(quants + block * bytes, from, static_cast<size_t>(bytes));
    from += bytes;
  }
}

}  // namespace chatspace
