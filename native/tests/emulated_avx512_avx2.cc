// SPDX-License-Identifier: Apache-2.0
// The kernels' source for AVX-512, whole, on emulated_avx512.h. Compiled with AVX2 (by its suffix).
#include <cstdio>
#include <vector>

#include "kernels/cpu_kernels.h"
#include "kernels/thread_pool.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "tests/emulated_avx512.h"

// Tile sizes and the like of that instruction set.
#undef __AVX512F__
#define __AVX512F__ 1

#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/int16_avx512.h"

#include "kernels/cpu_kernels.inl"

namespace testing {
const CpuKernels* emulated_avx512_kernels() {
  static constexpr CpuKernels table = make_table(Isa::kAvx512, "avx512 (emulated)");
  return &table;
}
}  // namespace testing

}  // namespace chatspace

#else

namespace chatspace::testing {
const CpuKernels* emulated_avx512_kernels() { return nullptr; }
}  // namespace chatspace::testing

#endif
