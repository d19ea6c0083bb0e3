// SPDX-License-Identifier: Apache-2.0
// Decode steps as recorded device work (CUDA graphs): a step in which every sequence has one row is padded to
// one of a few batch sizes and replayed. Whatever differs from step to step (tokens, positions, cache blocks,
// the steering tables of every site) lies at fixed addresses and is copied there before the replay, so a
// recording serves any requests and any programs. See docs/adr/0006-decode-graphs.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "decoder/decoder.h"
#include "ops/backend.h"
#include "ops/kv_cache.h"

namespace chatspace {

class DecodeGraphs {
 public:
  // tokens [T] -> logits [T, vocab] float32 on the device, with the cache's layout set; allocates all it makes.
  using Forward = std::function<at::Tensor(const at::Tensor& tokens)>;

  // Holds references: lives as long as the decoder. `max_blocks`: the widest block table. `table_bytes`: what
  // one step's programs may need; a step that needs more is not replayed.
  DecodeGraphs(Backend& backend, SiteTable& sites, KVCache& cache, at::Device device, int64_t max_batch,
               int64_t max_blocks, int64_t table_bytes, Forward forward);

  // Records the smallest step, so that a model that cannot be recorded is known at load. Throws Error
  // ERR_GRAPH_RECORD.
  void probe();

  // The step's logits [rows, vocab] float32 on the CPU, or nothing when it is not a decode step or does not fit.
  // Marks the sites it passed as the hooks would have.
  std::optional<at::Tensor> run(const StepRows& step, const std::vector<int64_t>& logit_rows);

  const GraphCounts& counts() const { return counts_; }

 private:
  // Which sites a recording can steer: the fewer, the fewer kernels that find nothing to do.
  enum class Reach { kNone, kLayers, kAll };
  using Key = std::tuple<int64_t, int64_t, Reach>;  // padded rows, width of the block tables
  struct Recorded {
    std::unique_ptr<StepGraph> graph;
    at::Tensor logits;  // [padded rows, vocab], overwritten by each replay
  };

  bool fits(const StepRows& step, const std::vector<int64_t>& logit_rows) const;
  Reach reach_of(const std::vector<SiteWork>& work) const;
  const Recorded& recorded(const Key& key);
  void put_rows(const StepRows& step, int64_t padded);
  void put_tables(const StepRows& step);
  void mark_passed(const std::vector<SiteWork>& work);

  SiteTable& sites_;
  KVCache& cache_;
  at::Device device_;
  int64_t max_batch_;
  int64_t max_blocks_;
  Forward forward_;
  std::unique_ptr<SiteTables> tables_;
  std::unique_ptr<StepRecorder> recorder_;
  at::Tensor inputs_;  // bytes of the next three
  at::Tensor tokens_;        // [max_batch] int64
  at::Tensor positions_;     // [max_batch] int32
  at::Tensor row_sequence_;  // [max_batch] int32
  at::Tensor block_tables_;  // [max_batch, max_blocks] int32
  std::vector<int32_t> tables_there_;  // what block_tables_ holds
  std::vector<bool> layer_site_;       // per site: the residual stream after a layer
  std::map<Key, Recorded> recordings_;
  GraphCounts counts_;
};

}  // namespace chatspace
