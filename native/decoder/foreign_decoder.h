// SPDX-License-Identifier: Apache-2.0
// Any TorchScript decoder, traced or scripted: inputs are found from the schema of its forward, layers
// as the longest numbered module list, what a layer returns by a probe. One sequence a step. With a past
// (a tensor tree that goes in and comes out) a step runs the new tokens; without one it runs the whole
// prefix again, which is slow, right, and said once by the caller (info().cached is false).
#pragma once

#include <unordered_map>

#include "decoder/archive.h"
#include "decoder/decoder.h"
#include "decoder/foreign_inputs.h"
#include "decoder/foreign_sites.h"

namespace chatspace {

inline constexpr const char* kForeignRemedy =
    "save the traced or scripted module itself (torch.jit.save), not the result of torch.jit.freeze or "
    "optimize_for_inference; scripts/py/export_torchscript.py writes a fitting one";

class ForeignDecoder : public Decoder {
 public:
  ForeignDecoder(Archive archive, const LoadOptions& options);

  at::Tensor forward(const StepRows& step, const std::vector<int64_t>& logit_rows) override;
  int64_t max_sequences() const override { return 1; }
  int64_t cache_blocks() const override { return 0; }
  int64_t cache_block_bytes() const override { return 0; }
  void release(int64_t sequence_id) override { pasts_.erase(sequence_id); }
  std::vector<std::pair<std::string, std::string>> module_tree() const override;

 private:
  struct Outputs {
    at::Tensor logits;  // [tokens, vocab]
    c10::IValue past;
  };
  void find_layers_path(const LoadOptions& options);
  void install_sites();
  Outputs run(torch::jit::Module& module, const std::vector<int64_t>& tokens, int64_t first_position,
              const c10::IValue& past);
  c10::IValue empty_past() const;
  // foreign_probe.cc
  // Runs a copy of the module (its tensors shared) with observers and learns each site's output form.
  void probe(const std::string& path);
  // The same prefix must give the same logits at another length, and in parts when there is a past.
  void check_lengths(torch::jit::Module& module, const at::Tensor& whole, const std::string& path);
  // Moves a part of each delta into its residual: a true pair does not notice, and anything else does.
  void check_pairs(const std::string& path);
  void drop_past();
  Outputs probe_run(torch::jit::Module& module, const std::vector<int64_t>& tokens, int64_t first_position,
                    const c10::IValue& past, const std::string& path);

  torch::jit::Module module_;
  ForeignInputs inputs_;
  std::vector<LearnedSite> learned_;
  at::ScalarType dtype_ = at::kFloat;
  std::unordered_map<int64_t, c10::IValue> pasts_;
};

}  // namespace chatspace
