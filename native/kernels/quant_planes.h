// SPDX-License-Identifier: Apache-2.0
// Block matrices as a device reads them. GGUF's blocks are 34, 18 or 20 bytes, so that no word of them is
// aligned; in planes the quants of all blocks come first (32 or 16 bytes a block, so that any block's start
// is aligned to 16), then all scales, then of Q4_1 all minimums. The same bytes in another order: a plane
// matrix is as large as a block matrix.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace chatspace {

// Bytes of a block's quants.
constexpr int64_t quant_bytes(ElementType type) { return type == ElementType::kQ8_0 ? 32 : 16; }

// `in`: `blocks` blocks of `type`; `out`: as many bytes, in planes.
void blocks_to_planes(ElementType type, const void* in, int64_t blocks, void* out);

}  // namespace chatspace
