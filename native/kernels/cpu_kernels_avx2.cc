// SPDX-License-Identifier: Apache-2.0
// Compiled with the flags of its suffix; says null when the compiler was not given them.
#include "kernels/cpu_kernels.h"
#include "kernels/thread_pool.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "kernels/int16_avx2.h"

#include "kernels/cpu_kernels.inl"

extern const CpuKernels* const kAvx2Kernels;
static constexpr CpuKernels kTable = make_table(Isa::kAvx2, "avx2");
const CpuKernels* const kAvx2Kernels = &kTable;

}  // namespace chatspace

#else

namespace chatspace {
extern const CpuKernels* const kAvx2Kernels;
const CpuKernels* const kAvx2Kernels = nullptr;
}  // namespace chatspace

#endif
