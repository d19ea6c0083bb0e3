// SPDX-License-Identifier: Apache-2.0
// What a request reads: selected rows of one site, taken by the steering operator after the operations of
// that site, from prompt and generation alike, whole or reduced to a few numbers on the device. Either all
// rows stay here until the request ends, or take() hands over what is there now and then (a stream); the
// rows are the same either way, in order, each once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "steering/program.h"
#include "steering/row_buffer.h"

namespace chatspace {

enum class Pool { kNone, kMean, kLast, kFirst };

enum class Reduce {
  kNone,
  kDirections,  // h.d for each of k directions (or its cosine)
  kEncoder,     // relu(W h + b): the encoder of a sparse autoencoder
  kLens,        // log-probabilities of the tokens if this row were the last (logit lens, nostalgebraist 2020)
};

struct CaptureSpec {
  std::string site;
  Scope scope;
  Pool pool = Pool::kNone;
  Reduce reduce = Reduce::kNone;
  std::vector<float> weight;  // [outputs, width]: directions, or the encoder
  std::vector<float> bias;    // [outputs] or empty
  bool relu = false;
  bool cosine = false;
  int64_t top_k = 0;  // of encoder and lens: the k largest, with their indices; 0 = all (encoder alone)
};

// Rows on their way out.
struct CaptureRows {
  std::vector<int32_t> positions;
  RowBuffer data;                // [positions.size(), values]
  std::vector<int32_t> indices;  // of a top k, beside data
};

class Capture {
 public:
  // width: of the site; outputs: numbers a row is reduced to before top_k. `weight`, `bias`: on the device.
  Capture(int64_t site, int64_t width, int64_t outputs, const CaptureSpec& spec, at::Tensor weight, at::Tensor bias);

  // Checks the spec against the site and brings its matrices to the device. vocab: outputs of a lens.
  static Capture make(const CaptureSpec& spec, int64_t site, int64_t width, int64_t vocab, at::Device device);

  int64_t site() const { return site_; }
  int64_t width() const { return width_; }
  // Values a row takes in the answer.
  int64_t values() const { return top_k_ > 0 ? top_k_ : outputs_; }
  int64_t outputs() const { return outputs_; }
  Reduce reduce() const { return reduce_; }
  int64_t top_k() const { return top_k_; }
  bool relu() const { return relu_; }
  bool cosine() const { return cosine_; }
  const at::Tensor& weight() const { return weight_; }
  const at::Tensor& bias() const { return bias_; }
  const Scope& scope() const { return scope_; }

  // Room for `rows` rows, the most that will come before the next take(); more may come.
  void expect(int64_t rows);
  // Makes room for the selected positions of the coming step and returns where their rows go:
  // [positions.size(), values()] floats, valid until commit().
  float* prepare(const std::vector<int32_t>& positions);
  // Of a top k: where the indices of the prepared rows go, [positions.size(), values()].
  int32_t* prepared_indices();
  // Takes the rows in (pooling them if asked).
  void commit();

  // Of the rows taken in and not handed over; a pooled row counts when the request ends.
  int64_t held_bytes() const;
  // Bytes a row takes on its way out.
  int64_t row_bytes() const { return values() * (top_k_ > 0 ? 8 : 4) + 4; }
  bool pooled() const { return pool_ != Pool::kNone; }
  // Hands over the rows taken in so far. Of a pooled capture: the pooled row, once.
  CaptureRows take();
  // The newest rows taken in, never pooled: for reading along.
  const float* newest() const { return data_.data() + data_.size() - static_cast<size_t>(values()); }

 private:
  int64_t site_;
  int64_t width_;
  int64_t outputs_;
  Scope scope_;
  Pool pool_;
  Reduce reduce_;
  int64_t top_k_;
  bool relu_;
  bool cosine_;
  at::Tensor weight_;
  at::Tensor bias_;
  std::vector<int32_t> pending_;
  std::vector<int32_t> positions_;
  RowBuffer data_;
  std::vector<int32_t> indices_;
  RowBuffer scratch_;  // pooled captures: the rows of this step
  std::vector<double> sum_;
  int64_t pooled_ = 0;
};

}  // namespace chatspace
