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
#include <utility>
#include <vector>

#include "kernels/steer_types.h"

namespace chatspace {

class SiteTables;

// What one site has to do in one step; filled by StepTables, read by the hook. Reused between steps.
struct SiteStep {
  bool active = false;
  int64_t rows = 0;
  std::vector<SteerRow> active_rows;
  std::vector<SteerEntry> entries;
  std::vector<SteerOp> ops;
  std::vector<SteerCounter> counters;  // one per entry of ops
  std::vector<float*> captures;
  std::vector<SteerReading> readings;
  std::vector<const SiteStep*> gates;  // sites whose readings this one's gates need, made earlier in the step
  bool ran = false;      // set by the hook: proof that the site's graph called it in this step
  bool ungated = false;  // set by the hook: the site ran before a reading its gates need

  // While the tables are filled, each list ascending by row or brought into that order by finish().
  struct EntrySpan {
    int32_t row, begin, end;
  };
  std::vector<EntrySpan> entry_rows;
  std::vector<std::pair<int32_t, float*>> capture_rows;
  std::vector<std::pair<int32_t, SteerReading>> reading_rows;

  void start(int64_t step_rows);
  // Joins the three lists into one row list with spans.
  void finish();
  SteerCall call(int64_t width);
};

class SiteHook : public torch::CustomClassHolder {
 public:
  // Called from TorchScript. `hidden` is [..., width]; leading dimensions flatten to the step's rows.
  at::Tensor apply(const at::Tensor& hidden);
  std::tuple<at::Tensor, at::Tensor> apply_pair(const at::Tensor& delta, const at::Tensor& residual);
  // The same for a caller that holds the tensors (decoder/call_plan.h); residual undefined: the delta alone.
  bool idle() const { return !step.active && recorded_in == nullptr; }
  void steer(at::Tensor& delta, at::Tensor& residual);
  // steer() and the addition with RMS norm behind it: (normed, sum). paired: the site's hidden state is
  // delta + residual, else delta alone.
  std::tuple<at::Tensor, at::Tensor> steer_add_rms_norm(bool paired, at::Tensor& delta, at::Tensor& residual,
                                                        const at::Tensor& weight, double eps);
  // Probe at load time: the tensors that entered or left a module, in order.
  void observe_inputs(const c10::List<std::optional<at::Tensor>>& tensors);  // absent ones are left out
  void observe_outputs(const std::vector<at::Tensor>& tensors);

  SiteStep step;
  // While a step is recorded (decoder/decode_graphs.h): the tables its replays will read this site's work from.
  SiteTables* recorded_in = nullptr;
  int64_t slot = 0;
  // A stranger's module may return a tensor that something else still reads; ours never do.
  bool copy_before_write = false;
  bool observing = false;
  int64_t calls = 0;  // while observing
  int64_t last_call = 0;  // while observing: ascends over all hooks in the order they were called
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  // Proof at load time that a pair is delta and residual: this [width] vector is added to the delta and,
  // with nudge_both, taken from the residual, which must then change nothing downstream.
  at::Tensor nudge;
  bool nudge_both = false;

 private:
  void run(at::Tensor& delta, at::Tensor& residual);
  // Notes that the site was passed; false when its gates' readings are not there yet.
  bool begin(const at::Tensor& delta);
};

struct Site {
  std::string name;  // canonical
  std::string path;  // submodule path in the archive
  int64_t width = 0;
  c10::intrusive_ptr<SiteHook> hook;
  int64_t order = 0;  // the forward passes sites in ascending order
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
