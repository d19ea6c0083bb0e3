// SPDX-License-Identifier: Apache-2.0
#include "ops/kv_cache.h"

#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

namespace chatspace {
namespace {

// Reads one line of the spec; every refusal names the line and what was expected there.
class SpecLine {
 public:
  SpecLine(const std::string& text, int64_t number) : text_(text), number_(number), fields_(text) {}

  std::string word() {
    std::string word;
    TORCH_CHECK_VALUE(static_cast<bool>(fields_ >> word), where(), "a field is missing");
    return word;
  }

  int64_t integer(const char* what, int64_t low, int64_t high) {
    const std::string field = word();
    size_t used = 0;
    int64_t value = 0;
    try {
      value = std::stoll(field, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    TORCH_CHECK_VALUE(used == field.size() && used > 0 && value >= low && value <= high, where(), what,
                      " must be an integer from ", low, " to ", high, ", got '", field, "'");
    return value;
  }

  float number(const char* what) {
    const std::string field = word();
    size_t used = 0;
    double value = 0.0;
    try {
      value = std::stod(field, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    TORCH_CHECK_VALUE(used == field.size() && used > 0 && std::isfinite(static_cast<float>(value)), where(), what,
                      " must be a finite number, got '", field, "'");
    return static_cast<float>(value);
  }

  void end() {
    std::string rest;
    TORCH_CHECK_VALUE(!(fields_ >> rest), where(), "unexpected '", rest, "' at the end");
  }

  std::string where() const {
    return "chatspace: KV cache spec, line " + std::to_string(number_) + " ('" + text_.substr(0, 60) + "'): ";
  }

 private:
  std::string text_;
  int64_t number_;
  std::istringstream fields_;
};

constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxLayers = 4096;

void check_dtype(at::ScalarType dtype) {
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf,
              "chatspace: the KV cache must be float32, bfloat16 or float16, got ", dtype);
}

}  // namespace

KVCache::KVCache(const std::string& spec) : spec_(spec) {
  std::istringstream lines(spec);
  std::string text;
  int64_t number = 0;
  while (std::getline(lines, text)) {
    ++number;
    if (text.empty()) continue;
    SpecLine line(text, number);
    const std::string kind = line.word();
    if (number == 1) {
      TORCH_CHECK_VALUE(kind == "chatspace-cache", line.where(), "expected 'chatspace-cache 1'");
      line.integer("the version", 1, 1);
    } else if (kind == "rope") {
      RopeSpec rope;
      rope.attention_factor = line.number("the attention factor");
      const int64_t count = line.integer("the number of frequencies", 1, kMaxHeadDim / 2);
      for (int64_t i = 0; i < count; ++i) rope.inverse_frequencies.push_back(line.number("an inverse frequency"));
      ropes_.push_back(std::move(rope));
    } else if (kind == "layer") {
      AttentionSpec layer;
      layer.heads = line.integer("heads", 1, kMaxHeads);
      layer.kv_heads = line.integer("kv heads", 1, layer.heads);
      TORCH_CHECK_VALUE(layer.heads % layer.kv_heads == 0, line.where(), layer.heads,
                        " heads are no multiple of ", layer.kv_heads, " kv heads");
      layer.head_dim = line.integer("head dimension", 1, kMaxHeadDim);
      layer.rotary_dim = line.integer("rotary dimension", 0, layer.head_dim);
      TORCH_CHECK_VALUE(layer.rotary_dim % 2 == 0, line.where(), "rotary dimension ", layer.rotary_dim, " is odd");
      layer.interleaved = line.integer("interleaved", 0, 1) == 1;
      layer.rope = line.integer("rope", -1, static_cast<int64_t>(ropes_.size()) - 1);
      layer.scale = line.number("scale");
      layer.softcap = line.number("softcap");
      TORCH_CHECK_VALUE(layer.softcap >= 0.0f, line.where(), "softcap must not be negative");
      layer.window = line.integer("window", 0, std::numeric_limits<int32_t>::max());
      if (layer.rope >= 0) {
        const auto frequencies = static_cast<int64_t>(ropes_[static_cast<size_t>(layer.rope)].inverse_frequencies.size());
        TORCH_CHECK_VALUE(frequencies == layer.rotary_dim / 2, line.where(), "rotary dimension ", layer.rotary_dim,
                          " needs ", layer.rotary_dim / 2, " frequencies, rope ", layer.rope, " has ", frequencies);
      }
      layers_.push_back(layer);
      TORCH_CHECK_VALUE(static_cast<int64_t>(layers_.size()) <= kMaxLayers, line.where(), "too many layers");
    } else {
      TORCH_CHECK_VALUE(false, line.where(), "expected 'rope' or 'layer'");
    }
    line.end();
  }
  TORCH_CHECK_VALUE(number > 0, "chatspace: KV cache spec: expected 'chatspace-cache 1', got nothing");
  TORCH_CHECK_VALUE(!layers_.empty(), "chatspace: KV cache spec: no layers");
}

int64_t KVCache::block_bytes(at::ScalarType dtype) const {
  check_dtype(dtype);
  int64_t elements = 0;
  for (const AttentionSpec& layer : layers_) elements += 2 * layer.kv_heads * layer.head_dim * kBlockTokens;
  return elements * static_cast<int64_t>(c10::elementSize(dtype));
}

void KVCache::allocate(int64_t blocks, at::ScalarType dtype, at::Device device) {
  check_dtype(dtype);
  TORCH_CHECK(blocks > 0 && blocks <= std::numeric_limits<int32_t>::max(), "chatspace: ", blocks,
              " cache blocks cannot be had");
  keys_.clear();
  values_.clear();
  blocks_ = 0;
  step_ = {};
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  for (const AttentionSpec& layer : layers_) {
    keys_.push_back(at::empty({blocks, layer.kv_heads, layer.head_dim, kBlockTokens}, options));
    values_.push_back(at::empty({blocks, layer.kv_heads, kBlockTokens, layer.head_dim}, options));
  }
  frequencies_.clear();
  for (const RopeSpec& rope : ropes_) {
    frequencies_.push_back(at::tensor(rope.inverse_frequencies, at::kFloat).to(device));
  }
  blocks_ = blocks;
}

void KVCache::begin_step(StepLayout layout) {
  TORCH_CHECK(blocks_ > 0, "chatspace: the KV cache has not been allocated");
  const at::Tensor& positions = layout.positions;
  TORCH_CHECK(positions.defined() && positions.dim() == 1 && positions.scalar_type() == at::kInt &&
                  layout.row_sequence.defined() && layout.row_sequence.sizes() == positions.sizes() &&
                  layout.row_sequence.scalar_type() == at::kInt && layout.block_tables.defined() &&
                  layout.block_tables.dim() == 2 && layout.block_tables.scalar_type() == at::kInt,
              "chatspace: a step's layout must be positions [T], row_sequence [T] and block_tables "
              "[sequences, blocks], int32");
  step_ = std::move(layout);
  cos_.clear();
  sin_.clear();
  const int64_t rows = step_.positions.size(0);
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const RopeSpec& rope = ropes_[i];
    const auto half = static_cast<int64_t>(rope.inverse_frequencies.size());
    if (!step_.positions.device().is_cpu()) {
      const at::Tensor angles = step_.positions.to(at::kFloat).unsqueeze(1) * frequencies_[i].unsqueeze(0);
      cos_.push_back(at::cos(angles).mul_(rope.attention_factor));
      sin_.push_back(at::sin(angles).mul_(rope.attention_factor));
      continue;
    }
    // Float32 throughout, as the reference: the angle is rounded before the cosine is taken.
    const at::Tensor where = step_.positions.contiguous();
    const int32_t* position = where.const_data_ptr<int32_t>();
    at::Tensor cos = at::empty({rows, half}, at::TensorOptions().dtype(at::kFloat));
    at::Tensor sin = at::empty({rows, half}, at::TensorOptions().dtype(at::kFloat));
    float* c = cos.mutable_data_ptr<float>();
    float* s = sin.mutable_data_ptr<float>();
    for (int64_t row = 0; row < rows; ++row) {
      const auto p = static_cast<float>(position[row]);
      for (int64_t j = 0; j < half; ++j) {
        const float angle = p * rope.inverse_frequencies[static_cast<size_t>(j)];
        c[row * half + j] = std::cos(angle) * rope.attention_factor;
        s[row * half + j] = std::sin(angle) * rope.attention_factor;
      }
    }
    cos_.push_back(std::move(cos));
    sin_.push_back(std::move(sin));
  }
}

at::Tensor KVCache::attend(int64_t layer, const at::Tensor& qkv, const OptionalTensor& q_norm,
                           const OptionalTensor& k_norm, double norm_eps) {
  TORCH_CHECK(layer >= 0 && layer < static_cast<int64_t>(layers_.size()), "chatspace: layer ", layer,
              " is outside a KV cache of ", layers_.size(), " layers");
  TORCH_CHECK(blocks_ > 0 && step_.positions.defined(), "chatspace: attend was called outside a step");
  const auto index = static_cast<size_t>(layer);
  AttentionCall call;
  call.spec = &layers_[index];
  call.qkv = qkv;
  call.q_norm = q_norm;
  call.k_norm = k_norm;
  call.norm_eps = norm_eps;
  if (call.spec->rope >= 0) {
    call.cos = cos_[static_cast<size_t>(call.spec->rope)];
    call.sin = sin_[static_cast<size_t>(call.spec->rope)];
  }
  call.positions = step_.positions;
  call.row_sequence = step_.row_sequence;
  call.block_tables = step_.block_tables;
  call.chunks = step_.chunks.get();
  call.keys = keys_[index];
  call.values = values_[index];
  return backend_of(qkv).attention(call);
}

at::Tensor KVCache::positions() const {
  TORCH_CHECK(step_.positions.defined(), "chatspace: positions were asked for outside a step");
  return step_.positions.to(at::kLong);
}

void KVCache::copy_block(int64_t from, int64_t to) {
  TORCH_CHECK(from >= 0 && from < blocks_ && to >= 0 && to < blocks_, "chatspace: copy of block ", from, " to ", to,
              " in a cache of ", blocks_);
  if (from == to) return;
  for (size_t i = 0; i < keys_.size(); ++i) {
    keys_[i].select(0, to).copy_(keys_[i].select(0, from));
    values_[i].select(0, to).copy_(values_[i].select(0, from));
  }
}

}  // namespace chatspace
