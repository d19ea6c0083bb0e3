// SPDX-License-Identifier: Apache-2.0
// An archive written by `chatspace-steer convert`: flat rows of all requests of a step, paged KV cache,
// layers that return (delta, residual). Its module tree is fixed: embed, layers.N{.attn,.mlp}, norm;
// methods forward(tokens, rows, given) and logits(hidden).
#pragma once

#include <memory>
#include <optional>

#include "decoder/archive.h"
#include "decoder/call_plan.h"
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
  int64_t flash_layers() const override { return flash_layers_; }
  GraphCounts graph_counts() const override { return graphs_ == nullptr ? GraphCounts{} : graphs_->counts(); }
  std::vector<std::pair<std::string, std::string>> module_tree() const override;

  // Lets the device's library compute attention of prompt chunks from here on, in the layers that it can. Throws
  // Error ERR_FLASH_ATTENTION where it can in none.
  void use_flash(Backend& backend, bool reproducible);
  // Replays decode steps from here on. `table_bytes`: what one step's programs may need. Throws Error
  // ERR_GRAPHS_MODEL, ERR_GRAPHS_DEVICE or ERR_GRAPH_RECORD.
  void use_graphs(Backend& backend, int64_t table_bytes = kGraphTableBytes);

 private:
  void install_sites();
  void size_cache(const LoadOptions& options, at::ScalarType dtype);
  // Cache blocks of the longest sequence.
  int64_t context_blocks() const;
  void make_plans();
  // rows, given: see the archives' forward; None for most steps.
  at::Tensor hidden_of(const at::Tensor& tokens, const c10::IValue& rows, const c10::IValue& given);
  at::Tensor logits_of(const at::Tensor& hidden);
  std::shared_ptr<const PromptChunks> chunks_of(const StepRows& step) const;

  torch::jit::Module module_;
  c10::intrusive_ptr<KVCache> cache_;
  int64_t max_batch_;
  int64_t block_bytes_ = 0;
  std::optional<int64_t> flash_rows_;  // least rows of prompt chunks for the library; none: not used
  int64_t flash_layers_ = 0;
  std::unique_ptr<CallPlan> forward_plan_;  // of forward(tokens, None, None); null: the interpreter runs it
  std::unique_ptr<CallPlan> logits_plan_;
  std::unique_ptr<DecodeGraphs> graphs_;
};

}  // namespace chatspace
