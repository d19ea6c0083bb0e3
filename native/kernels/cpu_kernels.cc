// SPDX-License-Identifier: Apache-2.0
// Chooses the kernel table once, by cpuid.
#include "kernels/cpu_kernels.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>

#include "kernels/cpu_kernels_amx.h"
#endif

namespace chatspace {

extern const CpuKernels* const kGenericKernels;
#if defined(__x86_64__)
extern const CpuKernels* const kAvx2Kernels;
extern const CpuKernels* const kAvx512Kernels;
extern const CpuKernels* const kAvx512VnniKernels;
#endif

namespace {

#if defined(__x86_64__)
// Not every supported compiler's builtin knows AMX: leaf 7 says tiles and bfloat16 products, XCR0 that the
// system saves tiles.
bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kTileBf16 = 1u << 22, kTile = 1u << 24;
  if ((d & kTileBf16) == 0 || (d & kTile) == 0) return false;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  return (low & kTileState) == kTileState;
}
#endif

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
    case Isa::kAvx512Vnni:
      return processor_has(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::kAmx:
      return processor_has(Isa::kAvx512) && has_tiles();
  }
  return false;
#else
  return isa == Isa::kGeneric;
#endif
}

const CpuKernels* choose() {
  Isa limit = Isa::kAvx512Vnni;
  if (const char* wanted = std::getenv("CHATSPACE_ISA")) {
    if (std::strcmp(wanted, "generic") == 0 || std::strcmp(wanted, "scalar") == 0) limit = Isa::kGeneric;
    if (std::strcmp(wanted, "avx2") == 0) limit = Isa::kAvx2;
    if (std::strcmp(wanted, "avx512") == 0) limit = Isa::kAvx512;
    // Only when asked for: docs/adr/0005-matrix-units.md.
    if (std::strcmp(wanted, "amx") == 0) limit = Isa::kAmx;
  }
  for (const Isa isa : {Isa::kAmx, Isa::kAvx512Vnni, Isa::kAvx512, Isa::kAvx2}) {
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
  if (isa == Isa::kAvx512Vnni) return kAvx512VnniKernels;
  if (isa == Isa::kAmx) {
    static const CpuKernels* const kernels = kAvx512Kernels != nullptr ? amx_kernels(*kAvx512Kernels) : nullptr;
    return kernels;
  }
#endif
  return kGenericKernels;
}

void use_cpu_kernels(const CpuKernels& kernels) { chosen().store(&kernels, std::memory_order_relaxed); }

}  // namespace chatspace
