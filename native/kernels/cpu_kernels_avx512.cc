// SPDX-License-Identifier: Apache-2.0
// Compiled with the flags of its suffix; says null when the compiler was not given them.
#include "kernels/cpu_kernels.h"
#include "kernels/thread_pool.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

// GCC 12 warns about the undefined operands inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/int16_avx512.h"

#include "kernels/cpu_kernels.inl"

extern const CpuKernels* const kAvx512Kernels;
static constexpr CpuKernels kTable = make_table(Isa::kAvx512, "avx512");
const CpuKernels* const kAvx512Kernels = &kTable;

}  // namespace chatspace

#else

namespace chatspace {
extern const CpuKernels* const kAvx512Kernels;
const CpuKernels* const kAvx512Kernels = nullptr;
}  // namespace chatspace

#endif
