// SPDX-License-Identifier: Apache-2.0
#include "steering/capture.h"

namespace chatspace {

float* Capture::prepare(const std::vector<int32_t>& positions) {
  pending_ = positions;
  const size_t values = positions.size() * static_cast<size_t>(width_);
  if (pool_ != Pool::kNone) {
    scratch_.resize(values);
    return scratch_.data();
  }
  const size_t before = data_.size();
  data_.resize(before + values);
  return data_.data() + before;
}

void Capture::commit() {
  if (pending_.empty()) return;
  if (pool_ == Pool::kNone) {
    positions_.insert(positions_.end(), pending_.begin(), pending_.end());
    pending_.clear();
    return;
  }
  const size_t width = static_cast<size_t>(width_);
  const size_t rows = pending_.size();
  if (pool_ == Pool::kMean) {
    sum_.resize(width, 0.0);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t k = 0; k < width; ++k) sum_[k] += scratch_[r * width + k];
    }
    pooled_ += static_cast<int64_t>(rows);
    data_.resize(width);
    for (size_t k = 0; k < width; ++k) data_[k] = static_cast<float>(sum_[k] / static_cast<double>(pooled_));
    positions_.assign(1, pending_.back());
  } else if (pool_ == Pool::kLast) {
    data_.assign(scratch_.end() - static_cast<int64_t>(width), scratch_.end());
    positions_.assign(1, pending_.back());
  } else if (data_.empty()) {
    data_.assign(scratch_.begin(), scratch_.begin() + static_cast<int64_t>(width));
    positions_.assign(1, pending_.front());
  }
  pending_.clear();
}

std::vector<float> Capture::take_data() { return std::move(data_); }

}  // namespace chatspace
