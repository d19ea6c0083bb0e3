// SPDX-License-Identifier: Apache-2.0
#include "steering/step_tables.h"

#include <cstring>

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {

SiteStep& StepTables::touch(int64_t site, int64_t rows) {
  SiteStep& step = sites_.at(site).hook->step;
  if (!step.active) {
    step.active = true;
    step.ran = false;
    step.rows = rows;
    step.row_offsets.assign(1, 0);
    step.op_index.clear();
    step.ops.clear();
    step.counters.clear();
    step.capture_rows.clear();
    step.capture_out.clear();
    active_.push_back(site);
  }
  return step;
}

void StepTables::add_operations(const StepSlice& slice, int64_t rows) {
  for (const SiteProgram& part : slice.program->sites()) {
    // Is there any row at all? A scope that selects nothing leaves the site idle.
    SiteStep* step = nullptr;
    // Rows that a model without a cache runs again get entries of their own, which nobody counts.
    int32_t first_ops[2] = {-1, -1};
    for (int64_t r = 0; r < slice.count; ++r) {
      const int32_t position = slice.first_position + static_cast<int32_t>(r);
      const int32_t token = static_cast<int32_t>(slice.tokens[r]);
      for (size_t o = 0; o < part.operations.size(); ++o) {
        const CompiledOperation& operation = part.operations[o];
        if (!operation.scope.selects(position, token, slice.prompt)) continue;
        if (step == nullptr) step = &touch(part.site, rows);
        const bool stale = r < slice.fresh;
        int32_t& first_op = first_ops[stale ? 1 : 0];
        if (first_op < 0) {
          first_op = static_cast<int32_t>(step->ops.size());
          for (const CompiledOperation& each : part.operations) {
            if (!stale) targets_.push_back({part.site, step->ops.size(), slice.counters, each.op.counter});
            SteerOp op = each.op;
            op.counter = static_cast<int32_t>(step->ops.size());
            step->ops.push_back(op);
            step->counters.push_back({0, 0.0});
          }
        }
        // Rows up to this one that had no operation get empty spans.
        step->row_offsets.resize(static_cast<size_t>(slice.first_row + r + 1),
                                 static_cast<int32_t>(step->op_index.size()));
        step->op_index.push_back(first_op + static_cast<int32_t>(o));
      }
    }
  }
}

void StepTables::add_captures(const StepSlice& slice, int64_t rows) {
  for (Capture& capture : *slice.captures) {
    selected_.clear();
    for (int64_t r = slice.fresh; r < slice.count; ++r) {
      const int32_t position = slice.first_position + static_cast<int32_t>(r);
      if (capture.scope().selects(position, static_cast<int32_t>(slice.tokens[r]), slice.prompt)) {
        selected_.push_back(position);
      }
    }
    if (selected_.empty()) continue;
    SiteStep& step = touch(capture.site(), rows);
    float* out = capture.prepare(selected_);
    if (!device_.is_cpu()) {
      at::Tensor staging = at::empty({static_cast<int64_t>(selected_.size()), capture.width()},
                                     at::TensorOptions().dtype(at::kFloat).device(device_));
      device_captures_.push_back({capture.site(), staging, out});
      out = staging.data_ptr<float>();
    }
    for (size_t i = 0; i < selected_.size(); ++i) {
      step.capture_rows.push_back(static_cast<int32_t>(slice.first_row + selected_[i] - slice.first_position));
      step.capture_out.push_back(out + i * static_cast<size_t>(capture.width()));
    }
  }
}

void StepTables::begin(int64_t rows, std::vector<StepSlice> slices) {
  slices_ = std::move(slices);
  for (const StepSlice& slice : slices_) {
    if (slice.program != nullptr) add_operations(slice, rows);
    if (slice.captures != nullptr) add_captures(slice, rows);
  }
  for (int64_t site : active_) {
    SiteStep& step = sites_.at(site).hook->step;
    step.row_offsets.resize(static_cast<size_t>(rows + 1), static_cast<int32_t>(step.op_index.size()));
  }
}

void StepTables::end() {
  for (int64_t site : active_) {
    if (!sites_.at(site).hook->step.ran) {
      const std::string name = sites_.at(site).name;
      cancel();
      throw Error("ERR_SITE_NOT_REACHED", text("site \"", name, "\" had work in this step but the model's forward "
                                               "did not pass it"), {{"site", name}});
    }
  }
  if (!targets_.empty() && !device_.is_cpu()) cuda_backend()->read_counters();
  for (const CounterTarget& target : targets_) {
    const SteerCounter& counted = sites_.at(target.site).hook->step.counters[target.entry];
    SteerCounter& total = (*target.counters)[static_cast<size_t>(target.index)];
    total.rows += counted.rows;
    total.change_norm += counted.change_norm;
  }
  for (DeviceCapture& part : device_captures_) {
    const at::Tensor host = part.staging.cpu();
    std::memcpy(part.out, host.data_ptr<float>(), host.nbytes());
  }
  for (const StepSlice& slice : slices_) {
    if (slice.captures == nullptr) continue;
    for (Capture& capture : *slice.captures) capture.commit();
  }
  cancel();
}

void StepTables::cancel() {
  if (!targets_.empty() && !device_.is_cpu()) {
    // A step that failed may have counts outstanding. They are taken in now, while the sites' counters
    // are still where the device backend was told.
    try {
      cuda_backend()->read_counters();
    } catch (const std::exception&) {
      // The device itself has failed; the backend has forgotten the counters.
    }
  }
  for (int64_t site : active_) sites_.at(site).hook->step.active = false;
  active_.clear();
  slices_.clear();
  targets_.clear();
  device_captures_.clear();
}

}  // namespace chatspace
