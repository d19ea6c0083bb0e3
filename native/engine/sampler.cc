// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu_kernels.h"
#include "kernels/profile.h"

namespace chatspace {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// SplitMix64 (Steele, Lea, Flood 2014) over seed and counter, as a uniform double in [0, 1).
double uniform(uint64_t seed, uint64_t counter) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull + (counter + 1) * 0xd1342543de82ef95ull;
  for (int round = 0; round < 2; ++round) {
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
  }
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

}  // namespace

int32_t argmax(const float* values, int64_t count) {
  return static_cast<int32_t>(cpu_kernels().argmax(values, count));
}

double log_sum_exp(const float* logits, int64_t vocab) {
  const double top = logits[argmax(logits, vocab)];
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - top);
  return top + std::log(sum);
}

void top_logprobs(const float* logits, int64_t vocab, double log_sum, int64_t k, std::vector<int32_t>& ids,
                  std::vector<float>& values) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  k = std::min(k, vocab);
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [logits](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (int64_t i = 0; i < k; ++i) {
    ids.push_back(order[static_cast<size_t>(i)]);
    values.push_back(static_cast<float>(logits[order[static_cast<size_t>(i)]] - log_sum));
  }
}

Sampler::Sampler(const SamplingSpec& spec, const std::vector<int64_t>& prompt) : spec_(spec) {
  penalised_ = spec.repetition_penalty != 1.0 || spec.presence_penalty != 0.0 || spec.frequency_penalty != 0.0;
  if (penalised_) {
    for (int64_t token : prompt) seen_[static_cast<int32_t>(token)] = true;
  }
}

void Sampler::accept(int32_t token) {
  if (!penalised_) return;
  counts_[token] += 1;
  seen_[token] = true;
}

bool Sampler::plain_greedy(const std::vector<int32_t>& banned) const {
  return spec_.temperature == 0.0 && !penalised_ && spec_.bias_ids.empty() && banned.empty();
}

void Sampler::adjust(std::vector<float>& scores, const std::vector<int32_t>& banned) const {
  const auto inside = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < scores.size(); };
  if (spec_.repetition_penalty != 1.0) {
    // Keskar et al. 2019 (CTRL): divide what is positive, multiply what is negative.
    const float penalty = static_cast<float>(spec_.repetition_penalty);
    for (const auto& [id, _] : seen_) {
      if (inside(id)) scores[static_cast<size_t>(id)] *= scores[static_cast<size_t>(id)] > 0 ? 1.0f / penalty : penalty;
    }
  }
  for (const auto& [id, count] : counts_) {
    if (!inside(id)) continue;
    scores[static_cast<size_t>(id)] -= static_cast<float>(spec_.presence_penalty + spec_.frequency_penalty * count);
  }
  for (size_t i = 0; i < spec_.bias_ids.size(); ++i) {
    if (inside(spec_.bias_ids[i])) scores[static_cast<size_t>(spec_.bias_ids[i])] += spec_.bias_values[i];
  }
  for (int32_t id : banned) {
    if (inside(id)) scores[static_cast<size_t>(id)] = kNever;
  }
}

int32_t Sampler::draw(std::vector<float>& scores, int64_t index) {
  const double inverse = 1.0 / spec_.temperature;
  const float top = scores[static_cast<size_t>(argmax(scores.data(), static_cast<int64_t>(scores.size())))];
  if (!std::isfinite(top)) return argmax(scores.data(), static_cast<int64_t>(scores.size()));
  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(scores[static_cast<size_t>(id)]) - top) * inverse);
  };
  order_.clear();
  const double floor = spec_.min_p;  // relative to the best token, whose weight is 1
  for (int32_t id = 0; id < static_cast<int32_t>(scores.size()); ++id) {
    const float score = scores[static_cast<size_t>(id)];
    if (score == kNever || std::isnan(score)) continue;
    if (floor > 0.0 && weight(id) < floor) continue;
    order_.push_back(id);
  }
  const auto better = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)];
    const float y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const size_t k = spec_.top_k > 0 ? std::min<size_t>(static_cast<size_t>(spec_.top_k), order_.size()) : order_.size();
  if (k < order_.size()) {
    std::nth_element(order_.begin(), order_.begin() + static_cast<int64_t>(k) - 1, order_.end(), better);
    order_.resize(k);
  }
  double total = 0;
  for (int32_t id : order_) total += weight(id);
  if (spec_.top_p < 1.0) {
    // The smallest set of best tokens whose mass reaches top_p; sorted in growing parts.
    double mass = 0;
    size_t kept = 0;
    for (size_t part = 256; kept < order_.size(); part *= 4) {
      const size_t end = std::min(order_.size(), part);
      std::partial_sort(order_.begin() + static_cast<int64_t>(kept), order_.begin() + static_cast<int64_t>(end),
                        order_.end(), better);
      while (kept < end && mass < spec_.top_p * total) mass += weight(order_[kept++]);
      if (mass >= spec_.top_p * total) break;
    }
    order_.resize(std::max<size_t>(kept, 1));
    total = mass;
  }
  double left = uniform(spec_.seed, static_cast<uint64_t>(index)) * total;
  for (int32_t id : order_) {
    left -= weight(id);
    if (left < 0) return id;
  }
  return order_.back();
}

int32_t Sampler::sample(const float* logits, int64_t vocab, int64_t index, const std::vector<int32_t>& banned) {
  const ProfileScope profile(Operator::kSampler);
  if (plain_greedy(banned)) return argmax(logits, vocab);
  scores_.assign(logits, logits + vocab);
  adjust(scores_, banned);
  if (spec_.temperature == 0.0) return argmax(scores_.data(), vocab);
  return draw(scores_, index);
}

}  // namespace chatspace
