// SPDX-License-Identifier: Apache-2.0
#include "steering/capture.h"

#include <algorithm>
#include <cmath>

#include "errors.h"

namespace chatspace {

Capture::Capture(int64_t site, int64_t width, int64_t outputs, const CaptureSpec& spec, at::Tensor weight,
                 at::Tensor bias)
    : site_(site),
      width_(width),
      outputs_(outputs),
      scope_(spec.scope),
      pool_(spec.pool),
      reduce_(spec.reduce),
      top_k_(spec.top_k),
      relu_(spec.relu),
      cosine_(spec.cosine),
      weight_(std::move(weight)),
      bias_(std::move(bias)) {}

Capture Capture::make(const CaptureSpec& spec, int64_t site, int64_t width, int64_t vocab, at::Device device) {
  const auto refuse = [&](const std::string& expected) {
    return Error("ERR_REDUCER", text("capture at ", spec.site, ": expected ", expected));
  };
  if (spec.reduce == Reduce::kNone) return {site, width, width, spec, {}, {}};
  if (spec.top_k > 0 && spec.pool != Pool::kNone) throw refuse("either pooling or the k largest, got both");
  if (spec.reduce == Reduce::kLens) {
    if (spec.top_k < 1 || spec.top_k > vocab) throw refuse(text("topK from 1 to ", vocab, ", got ", spec.top_k));
    return {site, width, vocab, spec, {}, {}};
  }
  const auto values = static_cast<int64_t>(spec.weight.size());
  if (values == 0 || values % width != 0) {
    throw Error("ERR_VECTOR_WIDTH",
                text("capture at ", spec.site, ": expected rows of ", width, " values, got ", values, " in all"));
  }
  const int64_t outputs = values / width;
  if (!spec.bias.empty() && static_cast<int64_t>(spec.bias.size()) != outputs) {
    throw refuse(text("a bias of ", outputs, " values, got ", spec.bias.size()));
  }
  if (spec.top_k > outputs) throw refuse(text("topK up to ", outputs, ", got ", spec.top_k));
  for (const auto* numbers : {&spec.weight, &spec.bias}) {
    for (float value : *numbers) {
      if (!std::isfinite(value)) throw Error("ERR_VECTOR_NOT_FINITE", text("capture at ", spec.site, " is not finite"));
    }
  }
  const auto tensor = [&](const std::vector<float>& numbers) {
    if (numbers.empty()) return at::Tensor();
    return at::tensor(at::ArrayRef<float>(numbers), at::kFloat).to(device);
  };
  return {site, width, outputs, spec, tensor(spec.weight).view({outputs, width}), tensor(spec.bias)};
}

void Capture::expect(int64_t rows) {
  if (pool_ == Pool::kNone) data_.reserve(static_cast<size_t>(rows * values()));
}

float* Capture::prepare(const std::vector<int32_t>& positions) {
  pending_ = positions;
  const size_t count = positions.size() * static_cast<size_t>(values());
  if (pool_ != Pool::kNone) return scratch_.reset(count);
  if (top_k_ > 0) indices_.resize(indices_.size() + count);
  return data_.extend(count);
}

int32_t* Capture::prepared_indices() {
  if (top_k_ == 0) return nullptr;
  return indices_.data() + indices_.size() - pending_.size() * static_cast<size_t>(top_k_);
}

void Capture::commit() {
  if (pending_.empty()) return;
  if (pool_ == Pool::kNone) {
    positions_.insert(positions_.end(), pending_.begin(), pending_.end());
    pending_.clear();
    return;
  }
  const size_t width = static_cast<size_t>(values());
  const size_t rows = pending_.size();
  const float* from = scratch_.data();
  if (pool_ == Pool::kMean) {
    sum_.resize(width, 0.0);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t k = 0; k < width; ++k) sum_[k] += from[r * width + k];
    }
    pooled_ += static_cast<int64_t>(rows);
    positions_.assign(1, pending_.back());
  } else if (pool_ == Pool::kLast) {
    std::copy_n(from + (rows - 1) * width, width, data_.reset(width));
    positions_.assign(1, pending_.back());
  } else if (data_.empty()) {
    std::copy_n(from, width, data_.reset(width));
    positions_.assign(1, pending_.front());
  }
  pending_.clear();
}

int64_t Capture::held_bytes() const {
  return pool_ == Pool::kNone ? static_cast<int64_t>(positions_.size()) * row_bytes() : 0;
}

CaptureRows Capture::take() {
  if (pool_ == Pool::kMean && pooled_ > 0) {
    float* mean = data_.reset(sum_.size());
    for (size_t k = 0; k < sum_.size(); ++k) mean[k] = static_cast<float>(sum_[k] / static_cast<double>(pooled_));
  }
  data_.trim();
  CaptureRows rows{std::move(positions_), std::move(data_), std::move(indices_)};
  positions_.clear();
  indices_.clear();
  return rows;
}

}  // namespace chatspace
