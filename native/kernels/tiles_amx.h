// SPDX-License-Identifier: Apache-2.0
// The tile registers of AMX. Inline assembly, because the compilers' own intrinsics want literal register
// numbers and (GCC) do not say that a tile load or a configuration reads memory, so stores to a packed
// buffer may be moved behind it.
#pragma once

#include <cstdint>

namespace chatspace {

// The 64 bytes of LDTILECFG, palette 1: eight registers of up to 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

namespace {

// native/tests/emulated_tiles.h has the same interface in plain C++.
struct Tiles {
  static void configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  // Back to the initial state: nothing to save at a context switch.
  static void release() { __asm__ volatile("tilerelease"); }
  template <int T>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  static void load(const void* base, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  static void store(void* base, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(T) : "memory");
  }
  // C[m][n] += A[m][2k] B[k][2n] + A[m][2k+1] B[k][2n+1], bfloat16 products, float32 sums.
  template <int C, int A, int B>
  static void dot_bf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

}  // namespace
}  // namespace chatspace
