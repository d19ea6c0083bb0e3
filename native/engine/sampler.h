// SPDX-License-Identifier: Apache-2.0
// Chooses the next token of one request from its logits. The random number of the n-th generated token
// is a function of (seed, n) alone, so a request samples the same alone, in a batch, or resumed.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/request.h"

namespace chatspace {

class Sampler {
 public:
  Sampler(const SamplingSpec& spec, const std::vector<int64_t>& prompt);

  // logits [vocab]; `index`: how many tokens were generated before; `banned`: ids that may not be chosen.
  int32_t sample(const float* logits, int64_t vocab, int64_t index, const std::vector<int32_t>& banned);
  void accept(int32_t token);

 private:
  bool plain_greedy(const std::vector<int32_t>& banned) const;
  void adjust(std::vector<float>& scores, const std::vector<int32_t>& banned) const;
  int32_t draw(std::vector<float>& scores, int64_t index);

  SamplingSpec spec_;
  bool penalised_;
  std::unordered_map<int32_t, int32_t> counts_;  // generated tokens
  std::unordered_map<int32_t, bool> seen_;       // prompt and generated
  std::vector<float> scores_;
  std::vector<int32_t> order_;
};

// log of the softmax denominator of logits [vocab], in double.
double log_sum_exp(const float* logits, int64_t vocab);

// First index of the largest value. NaN never wins.
int32_t argmax(const float* values, int64_t count);

// The k largest log-probabilities, largest first, ties by id.
void top_logprobs(const float* logits, int64_t vocab, double log_sum, int64_t k, std::vector<int32_t>& ids,
                  std::vector<float>& values);

}  // namespace chatspace
