// SPDX-License-Identifier: Apache-2.0
// float32 rows to GGUF blocks (the counterpart of dequant.h): weight-only quantisation at load.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace chatspace {

// Quantises `count` values (whole blocks of 32) into row_bytes(type, count) bytes.
//
// kQ8_0: scale = largest magnitude / 127, rounded to float16 before the values are divided by it.
// kQ4_1: scale and minimum by alternating least squares from several starting ranges, the one with the
// least squared error kept; both rounded to float16 before the final assignment.
// kQ4_0: the scale alone, found the same way, with levels -8 .. 7.
void quantize_row(ElementType type, const float* in, int64_t count, void* out);

// A row of `count` weights in blocks of `type` as the planes planes_of(type): the same numbers in as many
// bytes, in another order (element.h). `in` and `out` must not overlap.
void planes_row(ElementType type, const void* in, int64_t count, void* out);

}  // namespace chatspace
