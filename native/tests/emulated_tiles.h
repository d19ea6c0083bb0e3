// SPDX-License-Identifier: Apache-2.0
// The tile registers of kernels/tiles_amx.h in plain C++, so that the kernels' own bodies run in the tests on
// any processor. Arithmetic as Intel's manual gives it for TDPBF16PS: a chain of fused multiply-adds for each
// half of the pairs, one sum of both, one sum into the result, all rounded to nearest even, with what is
// below 2^-126 taken and given as zero. Shapes are checked as the processor checks them (it would raise #UD).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/tiles_amx.h"

namespace chatspace::testing {

struct EmulatedTiles {
  static void configure(const TileConfig& wanted) {
    if (wanted.palette != 1 || wanted.start_row != 0) throw std::logic_error("tiles: palette 1 from row 0 is meant");
    for (const uint8_t byte : wanted.reserved) {
      if (byte != 0) throw std::logic_error("tiles: reserved bytes must be zero");
    }
    for (int t = 0; t < 16; ++t) {
      const int rows = wanted.rows[t], bytes = wanted.row_bytes[t];
      if (rows > (t < 8 ? 16 : 0) || bytes > (t < 8 ? 64 : 0) || (rows == 0) != (bytes == 0)) {
        throw std::logic_error("tiles: a register of impossible size");
      }
    }
    config() = wanted;
    configured() = true;
    std::memset(&registers(), 0, sizeof(Registers));
  }
  static void release() {
    configured() = false;
    ++releases();
  }
  template <int T>
  static void zero() {
    usable(T);
    std::memset(registers().bytes[T], 0, sizeof(registers().bytes[T]));
  }
  template <int T>
  static void load(const void* base, int64_t stride) {
    zero<T>();
    for (int r = 0; r < config().rows[T]; ++r) {
      std::memcpy(registers().bytes[T][r], static_cast<const char*>(base) + r * stride, config().row_bytes[T]);
    }
  }
  template <int T>
  static void store(void* base, int64_t stride) {
    usable(T);
    for (int r = 0; r < config().rows[T]; ++r) {
      std::memcpy(static_cast<char*>(base) + r * stride, registers().bytes[T][r], config().row_bytes[T]);
    }
  }
  template <int C, int A, int B>
  static void dot_bf16() {
    static_assert(C != A && C != B && A != B, "three registers");
    fitting(C, A, B);
    for (int m = 0; m < config().rows[C]; ++m) {
      for (int n = 0; n < config().row_bytes[C] / 4; ++n) {
        float even = 0.0f, odd = 0.0f;
        for (int k = 0; k < config().rows[B]; ++k) {
          even = flushed(std::fma(half(A, m, 2 * k), half(B, k, 2 * n), even));
          odd = flushed(std::fma(half(A, m, 2 * k + 1), half(B, k, 2 * n + 1), odd));
        }
        float sum;
        std::memcpy(&sum, registers().bytes[C][m] + 4 * n, 4);
        sum = flushed(flushed(sum) + flushed(even + odd));
        std::memcpy(registers().bytes[C][m] + 4 * n, &sum, 4);
      }
    }
  }
  static bool& configured() {
    static thread_local bool is = false;
    return is;
  }
  static int& releases() {
    static thread_local int count = 0;
    return count;
  }

 private:
  struct Registers {
    uint8_t bytes[8][16][64];
  };
  static Registers& registers() {
    static thread_local Registers all;
    return all;
  }
  static TileConfig& config() {
    static thread_local TileConfig current;
    return current;
  }
  static void usable(int t) {
    if (!configured() || config().rows[t] == 0) throw std::logic_error("tiles: a register without a configuration");
  }
  static void fitting(int c, int a, int b) {
    usable(a), usable(b), usable(c);
    const TileConfig& now = config();
    if (now.rows[c] != now.rows[a] || now.row_bytes[a] != 4 * now.rows[b] || now.row_bytes[c] != now.row_bytes[b]) {
      throw std::logic_error("tiles: sizes do not fit each other");
    }
  }
  static float flushed(float x) {
    return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
  }
  static float half(int t, int row, int i) {
    uint16_t low;
    std::memcpy(&low, registers().bytes[t][row] + 2 * i, 2);
    const uint32_t bits = static_cast<uint32_t>(low) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return flushed(value);
  }
};

}  // namespace chatspace::testing
