// SPDX-License-Identifier: Apache-2.0
// Finds the living object that is equal to one that is wanted, so that equal ones are made once. Keeps
// nothing alive. The hash only says where to look: whoever asks compares.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <unordered_map>

#include "steering/hash128.h"

namespace chatspace {

template <typename T>
class LiveTable {
 public:
  // The object under `key` that `same(object)` accepts, or null.
  template <typename Same>
  std::shared_ptr<const T> find(const Hash128& key, const Same& same) const {
    const auto [begin, end] = entries_.equal_range(key);
    for (auto at = begin; at != end; ++at) {
      std::shared_ptr<const T> held = at->second.lock();
      if (held != nullptr && same(*held)) return held;
    }
    return nullptr;
  }

  void add(const Hash128& key, const std::shared_ptr<const T>& value) {
    // As many dead entries as living ones at most, at a constant cost an entry.
    if (entries_.size() >= sweep_at_) {
      sweep();
      sweep_at_ = std::max<size_t>(64, 2 * entries_.size());
    }
    entries_.emplace(key, value);
  }

  // Drops the entries of what has died.
  void sweep() {
    std::erase_if(entries_, [](const auto& entry) { return entry.second.expired(); });
  }

  // Living ones, and those that died since the last sweep.
  size_t size() const { return entries_.size(); }

 private:
  std::unordered_multimap<Hash128, std::weak_ptr<const T>, Hash128Hasher> entries_;
  size_t sweep_at_ = 64;
};

}  // namespace chatspace
