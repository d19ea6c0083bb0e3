// SPDX-License-Identifier: Apache-2.0
// The KV cache as TorchScript sees it: `self.kv.attend(self.index, qkv, q_norm, k_norm, eps)`.
//
// A TorchBind object shared by every attention module of one archive. It is saved as its spec (text,
// see NativeConvertPlan.cache in src/native/contract.ts) and comes back empty. The engine sizes it and
// sets the layout of each step before it calls the model's forward; only the executor thread of the
// model touches it.
#pragma once

#include <torch/custom_class.h>

#include <memory>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace chatspace {

// Where the rows of one step belong. Tensors are on the model's device, int32.
struct StepLayout {
  at::Tensor positions;     // [T]
  at::Tensor row_sequence;  // [T]
  at::Tensor block_tables;  // [sequences, max_blocks]
  // What the host knows of the step's prompt chunks, where the device's library may compute them; else null.
  std::shared_ptr<const PromptChunks> chunks;
};

class KVCache : public torch::CustomClassHolder {
 public:
  explicit KVCache(const std::string& spec);

  // Called from TorchScript. qkv [T, (heads + 2 kv_heads) head_dim] -> [T, heads * head_dim].
  at::Tensor attend(int64_t layer, const at::Tensor& qkv, const OptionalTensor& q_norm,
                    const OptionalTensor& k_norm, double norm_eps);
  // Positions of the step's rows, [T] int64, for models with learned position embeddings.
  at::Tensor positions() const;

  const std::string& spec() const { return spec_; }
  const std::vector<AttentionSpec>& layers() const { return layers_; }

  // Allocates `blocks` blocks of kBlockTokens positions for every layer; drops what was there.
  void allocate(int64_t blocks, at::ScalarType dtype, at::Device device);
  int64_t blocks() const { return blocks_; }
  // Bytes one block takes over all layers.
  int64_t block_bytes(at::ScalarType dtype) const;
  at::ScalarType dtype() const { return keys_.at(0).scalar_type(); }
  // Sets the rows of the next forward and computes cos and sin for each rope.
  void begin_step(StepLayout layout);
  void copy_block(int64_t from, int64_t to);

 private:
  std::string spec_;
  std::vector<RopeSpec> ropes_;
  std::vector<AttentionSpec> layers_;
  int64_t blocks_ = 0;
  std::vector<at::Tensor> keys_;    // per layer, see AttentionCall
  std::vector<at::Tensor> values_;
  StepLayout step_;
  std::vector<at::Tensor> frequencies_;  // per rope, [rotary / 2] on the device
  std::vector<at::Tensor> cos_;  // per rope, [T, rotary / 2]
  std::vector<at::Tensor> sin_;
};

}  // namespace chatspace
