// SPDX-License-Identifier: Apache-2.0
// A decoder as the engine sees it: rows in, logits out, sites on the way. Two kinds stand behind it:
// our own archives (flat rows, paged cache) and any TorchScript decoder. Everything here belongs to the
// executor thread of the model, from load to destruction.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "steering/site.h"

namespace chatspace {

struct LoadOptions {
  std::string path;
  std::string device = "cpu";
  std::string dtype = "auto";
  std::string quantize = "none";  // none, stored, int8, int4: matrices of our own archives
  // auto, float32, int16: how products with quantised matrices read their activations
  std::string activations = "auto";
  int threads = 1;
  std::string layers_path;  // "" = find
  int64_t token_budget = 512;
  int64_t max_batch = 64;
  int64_t cache_bytes = 0;
  bool cuda_graphs = false;   // decode steps of our own archives on CUDA are recorded and replayed
  bool flash_attention = false;  // prompt chunks of our own archives on CUDA: see OwnDecoder::use_flash
  bool reproducible = false;  // a row's bits do not depend on its batch; always so on the CPU
};

// Decode steps as recorded device work.
struct GraphCounts {
  int64_t recorded = 0;    // steps recorded, each for a batch size, a width of tables and a set of sites
  int64_t replayed = 0;
  int64_t overflowed = 0;  // decode steps run eagerly because their programs' tables were too large
};

struct ModelInfo {
  bool own = true;
  std::string metadata;
  int64_t layers = 0;
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  int64_t context_length = 0;
  std::string device;
  std::string dtype;
  std::string quantize = "none";
  std::string activations = "float32";
  std::string forward = "interpreter";  // calls: a flat list of calls (call_plan.h)
  int threads = 1;
  std::string layer_output;  // "delta-residual" or "hidden"
  std::string layers_path;
  bool cached = true;
  int64_t weight_bytes = 0;
  std::string weight_hash;
};

// The rows of one step.
struct StepRows {
  std::vector<int64_t> tokens;        // [T]
  std::vector<int32_t> positions;     // [T]
  std::vector<int32_t> row_sequence;  // [T] index into `sequences`
  struct Sequence {
    int64_t id = 0;  // of the request
    int64_t first_row = 0;
    int64_t rows = 0;
    std::vector<int32_t> blocks;  // cache blocks of the sequence, in order of position
  };
  std::vector<Sequence> sequences;
  std::vector<int64_t> given_rows;  // rows whose embedding is given, ascending
  std::vector<float> given;         // [given_rows, hidden]
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  const ModelInfo& info() const { return info_; }
  SiteTable& sites() { return sites_; }
  const SiteTable& sites() const { return sites_; }
  at::Device device() const { return device_; }

  // Runs the step and returns float32 logits on the CPU of `logit_rows`, [rows, vocab].
  virtual at::Tensor forward(const StepRows& step, const std::vector<int64_t>& logit_rows) = 0;
  // Sequences one step may hold.
  virtual int64_t max_sequences() const = 0;
  // Blocks of the cache, 0 when the decoder keeps its own state per sequence.
  virtual int64_t cache_blocks() const = 0;
  virtual int64_t cache_block_bytes() const = 0;
  // Copies the keys and values of one cache block over another's.
  virtual void copy_block(int64_t from, int64_t to) { (void)from, (void)to; }
  virtual GraphCounts graph_counts() const { return {}; }
  // Attention layers of prompt chunks that the device's library computed, over all steps.
  virtual int64_t flash_layers() const { return 0; }
  // Log-probabilities [n, vocab] of rows of the residual stream [n, hidden] as if they were the last layer's,
  // float32 on the device. Sites must be idle.
  virtual at::Tensor lens(const at::Tensor& rows);
  // Drops what the decoder keeps for a sequence.
  virtual void release(int64_t sequence_id) { (void)sequence_id; }
  virtual std::vector<std::pair<std::string, std::string>> module_tree() const = 0;
  const std::map<std::string, std::string>& extra_files() const { return extra_files_; }

 protected:
  ModelInfo info_;
  std::map<std::string, std::string> extra_files_;
  SiteTable sites_;
  at::Device device_ = at::kCPU;
};

// Opens an archive; throws Error with ERR_ARCHIVE_* and what to do about it.
std::unique_ptr<Decoder> load_decoder(const LoadOptions& options);

}  // namespace chatspace
