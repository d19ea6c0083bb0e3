// SPDX-License-Identifier: Apache-2.0
// For any processor.
#include "kernels/cpu_kernels.h"
#include "kernels/int16_generic.h"
#include "kernels/thread_pool.h"

#include "kernels/cpu_kernels.inl"

extern const CpuKernels* const kGenericKernels;
static constexpr CpuKernels kTable = make_table(Isa::kGeneric, "generic");
const CpuKernels* const kGenericKernels = &kTable;

}  // namespace chatspace
