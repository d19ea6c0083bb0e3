// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu_kernels.h"

namespace chatspace {

// `vectors` with the products of linear_amx.inl, or null when the build lacks them or the operating system
// refuses tiles. Only for a processor that has AMX-TILE and AMX-BF16. One table a process.
const CpuKernels* amx_kernels(const CpuKernels& vectors);

}  // namespace chatspace
