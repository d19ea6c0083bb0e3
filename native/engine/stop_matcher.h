// SPDX-License-Identifier: Apache-2.0
// Finds stop strings in the bytes of generated tokens, so that generation ends at the very token that
// completes one, wherever token borders fall.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace chatspace {

// The bytes each token stands for; shared by the requests of a model.
struct TokenBytes {
  std::string bytes;
  std::vector<int32_t> offsets;  // [vocab + 1]
};

class StopMatcher {
 public:
  StopMatcher(std::vector<std::string> stops, std::shared_ptr<const TokenBytes> table)
      : stops_(std::move(stops)), table_(std::move(table)) {
    for (const std::string& stop : stops_) longest_ = longest_ < stop.size() ? stop.size() : longest_;
  }

  // Index of the first stop string that the text ends in or crosses with this token, else -1.
  int64_t push(int32_t token) {
    if (stops_.empty() || table_ == nullptr) return -1;
    if (token < 0 || static_cast<size_t>(token) + 1 >= table_->offsets.size()) return -1;
    const size_t id = static_cast<size_t>(token);
    const size_t before = tail_.size();
    tail_.append(table_->bytes, static_cast<size_t>(table_->offsets[id]),
                 static_cast<size_t>(table_->offsets[id + 1] - table_->offsets[id]));
    for (size_t i = 0; i < stops_.size(); ++i) {
      const size_t from = before + 1 > stops_[i].size() ? before + 1 - stops_[i].size() : 0;
      if (tail_.find(stops_[i], from) != std::string::npos) return static_cast<int64_t>(i);
    }
    if (tail_.size() > longest_) tail_.erase(0, tail_.size() - longest_);
    return -1;
  }

 private:
  std::vector<std::string> stops_;
  std::shared_ptr<const TokenBytes> table_;
  std::string tail_;
  size_t longest_ = 0;
};

}  // namespace chatspace
