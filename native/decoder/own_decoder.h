// SPDX-License-Identifier: Apache-2.0
// An archive written by `chatspace-steer convert`: flat rows of all requests of a step, paged KV cache,
// layers that return (delta, residual). Its module tree is fixed: embed, layers.N{.attn,.mlp}, norm;
// methods forward(tokens, rows, given) and logits(hidden).
#pragma once

#include <memory>

#include "decoder/archive.h"
#include "decoder/decode_graphs.h"
#include "decoder/decoder.h"
#include "ops/kv_cache.h"

namespace chatspace {

// About 3,000 operations with a row each: 64 requests with their own programs at 40 sites.
constexpr int64_t kGraphTableBytes = int64_t{1} << 20;

class OwnDecoder : public Decoder {
 public:
  OwnDecoder(Archive archive, const LoadOptions& options);

  at::Tensor forward(const StepRows& step, const std::vector<int64_t>& logit_rows) override;
  at::Tensor lens(const at::Tensor& rows) override;
  int64_t max_sequences() const override { return max_batch_; }
  int64_t cache_blocks() const override { return cache_->blocks(); }
  int64_t cache_block_bytes() const override { return block_bytes_; }
  void copy_block(int64_t from, int64_t to) override { cache_->copy_block(from, to); }
  GraphCounts graph_counts() const override { return graphs_ == nullptr ? GraphCounts{} : graphs_->counts(); }
  std::vector<std::pair<std::string, std::string>> module_tree() const override;

  // Replays decode steps from here on. `table_bytes`: what one step's programs may need. Throws Error
  // ERR_GRAPHS_MODEL, ERR_GRAPHS_DEVICE or ERR_GRAPH_RECORD.
  void use_graphs(Backend& backend, int64_t table_bytes = kGraphTableBytes);

 private:
  void install_sites();
  void size_cache(const LoadOptions& options, at::ScalarType dtype);
  // Cache blocks of the longest sequence.
  int64_t context_blocks() const;
  at::Tensor logits_of(const at::Tensor& hidden);

  torch::jit::Module module_;
  c10::intrusive_ptr<KVCache> cache_;
  int64_t max_batch_;
  int64_t block_bytes_ = 0;
  std::unique_ptr<DecodeGraphs> graphs_;
};

}  // namespace chatspace
