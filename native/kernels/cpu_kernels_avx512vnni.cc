// SPDX-License-Identifier: Apache-2.0
// Compiled with the flags of its suffix; says null when the compiler was not given them. VNNI is used by the
// integer products alone, with the same results as AVX-512.
#include "kernels/cpu_kernels.h"
#include "kernels/thread_pool.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512VNNI__)

// GCC 12 warns about the undefined operands inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/int16_avx512.h"

#include "kernels/cpu_kernels.inl"

extern const CpuKernels* const kAvx512VnniKernels;
static constexpr CpuKernels kTable = make_table(Isa::kAvx512Vnni, "avx512vnni");
const CpuKernels* const kAvx512VnniKernels = &kTable;

}  // namespace chatspace

#else

namespace chatspace {
extern const CpuKernels* const kAvx512VnniKernels;
const CpuKernels* const kAvx512VnniKernels = nullptr;
}  // namespace chatspace

#endif
