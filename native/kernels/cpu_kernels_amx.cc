// SPDX-License-Identifier: Apache-2.0
// The table of processors with a matrix unit: the best vector table with another product for bfloat16
// weights. Compiled with the flags of its suffix; says null when the compiler was not given them.
#include "kernels/cpu_kernels_amx.h"

#include "kernels/thread_pool.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)

#include <emmintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "kernels/tiles_amx.h"

namespace chatspace {
namespace {

#include "kernels/linear_amx.inl"

CpuKernels table;
void (*vector_linear)(const LinearBlock& block) = nullptr;

void linear(const LinearBlock& b) {
  if (b.type != ElementType::kBFloat16) return vector_linear(b);
  if (b.rows <= 0 || b.n <= 0) return;
  auto* packed = reinterpret_cast<uint32_t*>(thread_scratch(Scratch::kPanel, packed_limbs_words(b.rows, b.k)));
  pack_limbs(b.x, b.x_stride, b.rows, b.k, packed);
  linear_tiles<Tiles>(b, packed);
}

// Linux gives a process the state of the tiles only when it asks.
bool tiles_permitted() {
  constexpr int kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;     // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

const CpuKernels* amx_kernels(const CpuKernels& vectors) {
  static const bool permitted = tiles_permitted();
  if (!permitted) return nullptr;
  vector_linear = vectors.linear;
  table = vectors;
  table.isa = Isa::kAmx;
  table.name = "amx";
  table.linear_tile_n = 2 * kTileSide;
  table.linear = linear;
  return &table;
}

}  // namespace chatspace

#else

namespace chatspace {
const CpuKernels* amx_kernels(const CpuKernels&) { return nullptr; }
}  // namespace chatspace

#endif
