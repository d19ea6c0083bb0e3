// SPDX-License-Identifier: Apache-2.0
// A running 128-bit hash of words, for identities within one process (cache keys). Two independent
// 64-bit lanes of multiply-rotate mixing; not a cryptographic hash, so whoever must be sure of equality
// compares what was hashed as well.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace chatspace {

struct Hash128 {
  uint64_t a = 0x243f6a8885a308d3ull;
  uint64_t b = 0x13198a2e03707344ull;

  bool operator==(const Hash128&) const = default;

  void add(uint64_t word) {
    a = std::rotl((a ^ word) * 0x9e3779b97f4a7c15ull, 29) * 0xbf58476d1ce4e5b9ull;
    b = std::rotl((b + word) * 0xd6e8feb86659fd93ull, 37) ^ (a >> 32);
  }
  void add_bytes(const void* data, size_t bytes) {
    const char* at = static_cast<const char*>(data);
    add(bytes);
    for (; bytes >= 8; at += 8, bytes -= 8) {
      uint64_t word;
      std::memcpy(&word, at, 8);
      add(word);
    }
    uint64_t rest = 0;
    std::memcpy(&rest, at, bytes);
    add(rest);
  }
};

struct Hash128Hasher {
  size_t operator()(const Hash128& hash) const { return static_cast<size_t>(hash.a ^ hash.b); }
};

}  // namespace chatspace
