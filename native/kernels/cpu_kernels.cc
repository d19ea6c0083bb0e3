// SPDX-License-Identifier: Apache-2.0
// Chooses the kernel table once, by cpuid.
#include "kernels/cpu_kernels.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace chatspace {

extern const CpuKernels* const kGenericKernels;
#if defined(__x86_64__)
extern const CpuKernels* const kAvx2Kernels;
extern const CpuKernels* const kAvx512Kernels;
#endif

namespace {

bool processor_has(Isa isa) {
#if defined(__x86_64__)
  // The compiler's builtin asks the operating system's side (XCR0) too.
  switch (isa) {
    case Isa::kGeneric:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::kGeneric;
#endif
}

const CpuKernels* choose() {
  Isa limit = Isa::kAvx512;
  if (const char* wanted = std::getenv("CHATSPACE_ISA")) {
    if (std::strcmp(wanted, "generic") == 0 || std::strcmp(wanted, "scalar") == 0) limit = Isa::kGeneric;
    if (std::strcmp(wanted, "avx2") == 0) limit = Isa::kAvx2;
  }
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (static_cast<int>(isa) > static_cast<int>(limit)) continue;
    if (const CpuKernels* kernels = cpu_kernels_for(isa)) return kernels;
  }
  return kGenericKernels;
}

std::atomic<const CpuKernels*>& chosen() {
  static std::atomic<const CpuKernels*> kernels{choose()};
  return kernels;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *chosen().load(std::memory_order_relaxed); }

const CpuKernels* cpu_kernels_for(Isa isa) {
  if (!processor_has(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return kAvx2Kernels;
  if (isa == Isa::kAvx512) return kAvx512Kernels;
#endif
  return kGenericKernels;
}

void use_cpu_kernels(const CpuKernels& kernels) { chosen().store(&kernels, std::memory_order_relaxed); }

}  // namespace chatspace
