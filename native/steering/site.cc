// SPDX-License-Identifier: Apache-2.0
#include "steering/site.h"

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {

void SiteHook::run(at::Tensor& delta, at::Tensor& residual) {
  step.ran = true;
  const int64_t width = delta.size(-1);
  TORCH_CHECK(delta.numel() == step.rows * width, "site returned ", delta.numel() / width, " rows, the step has ",
              step.rows);
  // A stranger's rows may lie under a batch dimension of one, or scattered.
  const auto sizes = delta.sizes().vec();
  const bool copy = !step.ops.empty() && copy_before_write;
  const auto as_rows = [&](const at::Tensor& tensor) {
    return (copy ? tensor.clone(at::MemoryFormat::Contiguous) : tensor.contiguous()).view({step.rows, width});
  };
  if (copy_before_write) {
    delta = as_rows(delta);
    if (residual.defined()) residual = as_rows(residual);
  }
  SteerCall call;
  call.rows = step.rows;
  call.hidden = width;
  call.row_offsets = step.row_offsets.data();
  call.op_index = step.op_index.data();
  call.ops = step.ops.data();
  call.counters = step.counters.data();
  call.captures = static_cast<int64_t>(step.capture_rows.size());
  call.capture_rows = step.capture_rows.data();
  call.capture_out = step.capture_out.data();
  backend_of(delta).steer(call, delta, residual);
  if (!copy_before_write) return;
  delta = delta.view(sizes);
  if (residual.defined()) residual = residual.view(sizes);
}

at::Tensor SiteHook::apply(const at::Tensor& hidden) {
  if (!step.active) return hidden;
  at::Tensor delta = hidden;
  at::Tensor residual;
  run(delta, residual);
  return delta;
}

std::tuple<at::Tensor, at::Tensor> SiteHook::apply_pair(const at::Tensor& delta, const at::Tensor& residual) {
  if (nudge.defined()) {
    const at::Tensor step_aside = nudge.to(delta.options());
    return {delta + step_aside, nudge_both ? residual - step_aside : residual};
  }
  if (!step.active) return {delta, residual};
  at::Tensor d = delta;
  at::Tensor r = residual;
  run(d, r);
  return {d, r};
}

namespace {

// Copies: a model may write into a tensor after it was seen.
std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& tensor : tensors) out.push_back(tensor.clone());
  return out;
}

}  // namespace

void SiteHook::observe_inputs(const c10::List<std::optional<at::Tensor>>& tensors) {
  if (!observing) return;
  std::vector<at::Tensor> present;
  for (const std::optional<at::Tensor>& tensor : tensors) {
    if (tensor.has_value() && tensor->defined()) present.push_back(*tensor);
  }
  inputs = copies(present);
}

void SiteHook::observe_outputs(const std::vector<at::Tensor>& tensors) {
  if (!observing) return;
  outputs = copies(tensors);
  ++calls;
}

int64_t SiteTable::add(Site site) {
  const int64_t index = size();
  names_.emplace(site.name, index);
  names_.emplace(site.path, index);
  sites_.push_back(std::move(site));
  return index;
}

int64_t SiteTable::find(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? -1 : found->second;
}

int64_t SiteTable::require(const std::string& name) const {
  const int64_t index = find(name);
  if (index < 0) throw Error("ERR_SITE_UNKNOWN", text("the model has no site \"", name, "\""), {{"site", name}});
  return index;
}

namespace {
const auto kRegistered = torch::class_<SiteHook>("chatspace", "SiteHook")
                             .def("apply", &SiteHook::apply)
                             .def("apply_pair", &SiteHook::apply_pair)
                             .def("observe_inputs", &SiteHook::observe_inputs)
                             .def("observe_outputs", &SiteHook::observe_outputs);
}  // namespace

}  // namespace chatspace
