// SPDX-License-Identifier: Apache-2.0
#include "steering/site.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {

void SiteStep::start(int64_t step_rows) {
  active = true;
  ran = false;
  ungated = false;
  rows = step_rows;
  active_rows.clear();
  entries.clear();
  ops.clear();
  counters.clear();
  captures.clear();
  readings.clear();
  gates.clear();
  entry_rows.clear();
  capture_rows.clear();
  reading_rows.clear();
}

void SiteStep::finish() {
  const auto earlier = [](const auto& a, const auto& b) { return a.first < b.first; };
  const auto order = [&](auto& list) {
    if (!std::is_sorted(list.begin(), list.end(), earlier)) std::stable_sort(list.begin(), list.end(), earlier);
  };
  order(capture_rows);
  order(reading_rows);
  constexpr int32_t kEnd = std::numeric_limits<int32_t>::max();
  auto entry = entry_rows.begin();
  auto capture = capture_rows.begin();
  auto reading = reading_rows.begin();
  for (;;) {
    int32_t row = entry == entry_rows.end() ? kEnd : entry->row;
    if (capture != capture_rows.end()) row = std::min(row, capture->first);
    if (reading != reading_rows.end()) row = std::min(row, reading->first);
    if (row == kEnd) return;
    SteerRow work{};
    work.row = row;
    if (entry != entry_rows.end() && entry->row == row) {
      work.entry_begin = entry->begin;
      work.entry_end = entry->end;
      ++entry;
    }
    work.capture_begin = static_cast<int32_t>(captures.size());
    for (; capture != capture_rows.end() && capture->first == row; ++capture) captures.push_back(capture->second);
    work.capture_end = static_cast<int32_t>(captures.size());
    work.reading_begin = static_cast<int32_t>(readings.size());
    for (; reading != reading_rows.end() && reading->first == row; ++reading) readings.push_back(reading->second);
    work.reading_end = static_cast<int32_t>(readings.size());
    active_rows.push_back(work);
  }
}

SteerCall SiteStep::call(int64_t width) {
  const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
  SteerCall out{};
  out.rows = rows;
  out.hidden = width;
  out.active = size(active_rows);
  out.active_rows = active_rows.data();
  out.entry_count = size(entries);
  out.entries = entries.data();
  out.op_count = size(ops);
  out.ops = ops.data();
  out.counters = counters.data();
  out.capture_count = size(captures);
  out.captures = captures.data();
  out.reading_count = size(readings);
  out.readings = readings.data();
  return out;
}

bool SiteHook::begin(const at::Tensor& delta) {
  step.ran = true;
  for (const SiteStep* gate : step.gates) {
    if (gate->ran) continue;
    // Told at the end of the step: an exception would lose its code on the way through the interpreter.
    step.ungated = true;
    return false;
  }
  const int64_t width = delta.size(-1);
  TORCH_CHECK(delta.numel() == step.rows * width, "site returned ", delta.numel() / width, " rows, the step has ",
              step.rows);
  return true;
}

void SiteHook::run(at::Tensor& delta, at::Tensor& residual) {
  if (!begin(delta)) return;
  const int64_t width = delta.size(-1);
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
  backend_of(delta).steer(step.call(width), delta, residual);
  if (!copy_before_write) return;
  delta = delta.view(sizes);
  if (residual.defined()) residual = residual.view(sizes);
}

at::Tensor SiteHook::apply(const at::Tensor& hidden) {
  if (!step.active && recorded_in == nullptr) return hidden;
  at::Tensor delta = hidden;
  at::Tensor residual;
  recorded_in != nullptr ? recorded_in->steer(slot, delta, residual) : run(delta, residual);
  return delta;
}

std::tuple<at::Tensor, at::Tensor> SiteHook::apply_pair(const at::Tensor& delta, const at::Tensor& residual) {
  if (nudge.defined()) {
    const at::Tensor step_aside = nudge.to(delta.options());
    return {delta + step_aside, nudge_both ? residual - step_aside : residual};
  }
  if (!step.active && recorded_in == nullptr) return {delta, residual};
  at::Tensor d = delta;
  at::Tensor r = residual;
  recorded_in != nullptr ? recorded_in->steer(slot, d, r) : run(d, r);
  return {d, r};
}

void SiteHook::steer(at::Tensor& delta, at::Tensor& residual) {
  if (recorded_in != nullptr) return recorded_in->steer(slot, delta, residual);
  if (step.active) run(delta, residual);
}

std::tuple<at::Tensor, at::Tensor> SiteHook::steer_add_rms_norm(bool paired, at::Tensor& delta, at::Tensor& residual,
                                                                const at::Tensor& weight, double eps) {
  Backend& backend = backend_of(delta);
  std::tuple<at::Tensor, at::Tensor> both;
  if (recorded_in != nullptr) {
    both = recorded_in->steer_add_rms_norm(slot, paired, delta, residual, weight, eps);
  } else if (step.active && begin(delta)) {
    both = backend.steer_add_rms_norm(step.call(delta.size(-1)), paired, delta, residual, weight, eps);
  } else {
    both = backend.add_rms_norm(delta, residual, weight, eps);
  }
  auto& [sum, normed] = both;
  return {std::move(normed), std::move(sum)};
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
  static std::atomic<int64_t> order{0};
  last_call = ++order;
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
