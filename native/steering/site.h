// SPDX-License-Identifier: Apache-2.0
// A site: a place in the decoder whose activation can be steered and read, and the hook object that
// graph surgery (decoder/surgery.h) put there. TorchScript calls the hook with the site's output at
// every forward; an idle hook returns it untouched.
#pragma once

#include <torch/custom_class.h>

#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/steer_types.h"

namespace chatspace {

// What one site has to do in one step; filled by StepTables, read by the hook. Reused between steps.
struct SiteStep {
  bool active = false;
  int64_t rows = 0;
  std::vector<int32_t> row_offsets;  // [rows + 1]
  std::vector<int32_t> op_index;
  std::vector<SteerOp> ops;
  std::vector<SteerCounter> counters;  // one per entry of ops
  std::vector<int32_t> capture_rows;
  std::vector<float*> capture_out;
  bool ran = false;  // set by the hook: proof that the site's graph called it in this step
};

class SiteHook : public torch::CustomClassHolder {
 public:
  // Called from TorchScript. `hidden` is [..., width]; leading dimensions flatten to the step's rows.
  at::Tensor apply(const at::Tensor& hidden);
  std::tuple<at::Tensor, at::Tensor> apply_pair(const at::Tensor& delta, const at::Tensor& residual);
  // Probe at load time: the tensors that entered or left a module, in order.
  void observe_inputs(const c10::List<std::optional<at::Tensor>>& tensors);  // absent ones are left out
  void observe_outputs(const std::vector<at::Tensor>& tensors);

  SiteStep step;
  // A stranger's module may return a tensor that something else still reads; ours never do.
  bool copy_before_write = false;
  bool observing = false;
  int64_t calls = 0;  // while observing
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  // Proof at load time that a pair is delta and residual: this [width] vector is added to the delta and,
  // with nudge_both, taken from the residual, which must then change nothing downstream.
  at::Tensor nudge;
  bool nudge_both = false;

 private:
  void run(at::Tensor& delta, at::Tensor& residual);
};

struct Site {
  std::string name;  // canonical
  std::string path;  // submodule path in the archive
  int64_t width = 0;
  c10::intrusive_ptr<SiteHook> hook;
};

// The sites of one model, by canonical name, alias or submodule path.
class SiteTable {
 public:
  int64_t add(Site site);
  void alias(const std::string& name, int64_t index) { names_.emplace(name, index); }
  int64_t find(const std::string& name) const;     // -1 = unknown
  int64_t require(const std::string& name) const;  // throws ERR_SITE_UNKNOWN
  const Site& at(int64_t index) const { return sites_[static_cast<size_t>(index)]; }
  Site& at(int64_t index) { return sites_[static_cast<size_t>(index)]; }
  int64_t size() const { return static_cast<int64_t>(sites_.size()); }
  const std::vector<Site>& list() const { return sites_; }

 private:
  std::vector<Site> sites_;
  std::unordered_map<std::string, int64_t> names_;
};

}  // namespace chatspace
