// SPDX-License-Identifier: Apache-2.0
// A weight in another element type than the source's: what `--dtype` and `--quantize` do at conversion.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "archive/mapped_weights.h"

namespace chatspace {

// Bytes of a matrix of `elements` elements in F32, F16, BF16, Q8_0 or Q4_1; 0 = none of them, or no whole blocks.
int64_t restored_bytes(const std::string& type, int64_t elements);

// Writes `weight` (two dimensions) as `type` into `out` of restored_bytes(type, elements) bytes, row by row on
// all threads: the source's values as float32, then rounded to F32, F16 or BF16, or quantised to Q8_0 or Q4_1.
// The bits are those that loading gives for the same wish (weights.h). `done(from, bytes)` is called after each
// part, when the source's bytes of that part are no longer needed, and the part of `out` beside it.
// Throws Error ERR_CONVERT_PLAN (no matrix, rows that are no whole blocks of either type).
using PartDone = std::function<void(const char* from, size_t from_bytes, const char* to, size_t to_bytes)>;
void restore(const StoredWeight& weight, const std::string& type, const std::string& where, char* out,
             const PartDone& done);

}  // namespace chatspace
