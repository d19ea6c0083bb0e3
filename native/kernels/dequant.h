// SPDX-License-Identifier: Apache-2.0
// GGUF and safetensors element types to float32, bit-equal to the `gguf` Python package (whose numpy code
// is the reference): float32 arithmetic in the same order, no fused multiply-add.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace chatspace {

// Bytes of `elements` elements; 0 = unknown type, or no whole number of its blocks.
size_t type_bytes(std::string_view type, int64_t elements);

// `in` holds type_bytes(type, elements) bytes, of any alignment. false = unknown type or ragged count.
bool dequantize(std::string_view type, const void* in, int64_t elements, float* out);

}  // namespace chatspace
