// SPDX-License-Identifier: Apache-2.0
// What a request reads: selected rows of one site, copied by the steering operator after the
// operations of that site, from prompt and generation alike. Grows with the request; nothing is
// dropped at a chunk or a flush.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "steering/program.h"

namespace chatspace {

enum class Pool { kNone, kMean, kLast, kFirst };

struct CaptureSpec {
  std::string site;
  Scope scope;
  Pool pool = Pool::kNone;
};

class Capture {
 public:
  Capture(int64_t site, int64_t width, Scope scope, Pool pool)
      : site_(site), width_(width), scope_(std::move(scope)), pool_(pool) {}

  int64_t site() const { return site_; }
  int64_t width() const { return width_; }
  const Scope& scope() const { return scope_; }

  // Makes room for the selected positions of the coming step and returns where their rows go:
  // [positions.size(), width] floats, valid until commit(). `on_device`: the caller fills them later.
  float* prepare(const std::vector<int32_t>& positions);
  // Takes the rows in (pooling them if asked).
  void commit();

  const std::vector<int32_t>& positions() const { return positions_; }
  std::vector<float> take_data();

 private:
  int64_t site_;
  int64_t width_;
  Scope scope_;
  Pool pool_;
  std::vector<int32_t> pending_;
  std::vector<int32_t> positions_;
  std::vector<float> data_;
  std::vector<float> scratch_;  // pooled captures: the rows of this step
  std::vector<double> sum_;
  int64_t pooled_ = 0;
};

}  // namespace chatspace
