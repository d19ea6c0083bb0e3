// SPDX-License-Identifier: Apache-2.0
#include "steering/step_tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

#include "errors.h"
#include "kernels/profile.h"
#include "ops/backend.h"

namespace chatspace {

namespace {

// Rows an encoder or a lens is applied to at a time: what it makes of them is wide.
constexpr int64_t kReduceRows = 64;

size_t readings_of(const std::vector<Capture>* captures) {
  size_t count = 0;
  if (captures == nullptr) return 0;
  for (const Capture& capture : *captures) {
    if (capture.reduce() == Reduce::kDirections) count += static_cast<size_t>(capture.outputs());
  }
  return count;
}

bool latch_open(const SteerOp& op, float value) {
  return op.gate_above != 0 ? value > op.threshold : value < op.threshold;
}

}  // namespace

SiteStep& StepTables::touch(int64_t site, int64_t rows) {
  SiteStep& step = sites_.at(site).hook->step;
  if (!step.active) {
    step.start(rows);
    active_.push_back(site);
  }
  return step;
}

// Pointers into the buffer go into the tables, so it must not move while they are filled: the most the
// step can need is taken first.
void StepTables::reserve_readings() {
  size_t most = 0;
  for (const StepSlice& slice : slices_) {
    const size_t gates = slice.program == nullptr ? 0 : slice.program->readings().size();
    most += (gates + readings_of(slice.captures) + readings_of(slice.probes)) * static_cast<size_t>(slice.count);
  }
  buffer_used_ = 0;
  if (most == 0) return;
  if (!buffer_.defined() || static_cast<size_t>(buffer_.numel()) < most) {
    buffer_ = at::empty({static_cast<int64_t>(most)}, at::TensorOptions().dtype(at::kFloat).device(device_));
  }
  buffer_data_ = buffer_.mutable_data_ptr<float>();
}

void StepTables::add_op(SiteStep& step, int64_t site, const SteerOp& op, std::vector<SteerCounter>* counters) {
  const auto entry = static_cast<int32_t>(step.ops.size());
  if (counters != nullptr) {
    targets_.push_back({static_cast<int32_t>(site), entry, counters->data() + op.counter});
  }
  step.ops.push_back(op);
  step.ops.back().counter = entry;
  step.counters.push_back({0, 0.0});
}

int32_t StepTables::add_ops(SiteStep& step, const SiteProgram& part, std::vector<SteerCounter>* counters) {
  const auto first = static_cast<int32_t>(step.ops.size());
  for (const CompiledOperation& each : part.operations) add_op(step, part.site, each.op, counters);
  return first;
}

const float* StepTables::gate_reading(const StepSlice& slice, size_t index, int64_t r, SiteStep& reader,
                                      int64_t rows) {
  const GateReading& gate = slice.program->readings()[index];
  size_t& made = made_[index * static_cast<size_t>(slice.count) + static_cast<size_t>(r)];
  SiteStep& site = touch(gate.site, rows);
  if (made == 0) {
    made = ++buffer_used_;
    site.reading_rows.push_back({static_cast<int32_t>(slice.first_row + r),
                                 {gate.direction->data(), buffer_data_ + made - 1, 1,
                                  gate.cosine ? 1 : 0}});
  }
  if (&site != &reader && std::find(reader.gates.begin(), reader.gates.end(), &site) == reader.gates.end()) {
    reader.gates.push_back(&site);
  }
  return buffer_data_ + made - 1;
}

void StepTables::add_entries(const StepSlice& slice, const SiteProgram& part, int64_t rows) {
  // Is there any row at all? A scope that selects nothing leaves the site idle.
  SiteStep* step = nullptr;
  // Rows that a model without a cache runs again get operations of their own, which nobody counts.
  int32_t first_ops[2] = {-1, -1};
  for (int64_t r = 0; r < slice.count; ++r) {
    const int32_t position = slice.first_position + static_cast<int32_t>(r);
    const int32_t token = static_cast<int32_t>(slice.tokens[r]);
    int32_t begin = -1;
    for (size_t o = 0; o < part.operations.size(); ++o) {
      const CompiledOperation& operation = part.operations[o];
      const float strength = operation.strength(position, token, slice.prompt);
      if (strength == 0.0f) continue;
      if (operation.latch) {
        const float value = (*slice.latches)[static_cast<size_t>(operation.gate)];
        if (std::isnan(value)) {
          throw Error("ERR_GATE_READING", text("a latched gate of an operation at site ", sites_.at(part.site).name,
                                               " has no reading of the last prompt token"));
        }
        if (!latch_open(operation.op, value)) continue;
      }
      if (step == nullptr) step = &touch(part.site, rows);
      const bool stale = r < slice.fresh;
      int32_t& first_op = first_ops[stale ? 1 : 0];
      if (first_op < 0) first_op = add_ops(*step, part, stale ? nullptr : slice.counters);
      if (begin < 0) begin = static_cast<int32_t>(step->entries.size());
      const bool reads = operation.gate >= 0 && !operation.latch;
      const float* gate =
          reads ? gate_reading(slice, static_cast<size_t>(operation.gate), r, *step, rows) : nullptr;
      step->entries.push_back({first_op + static_cast<int32_t>(o), strength, gate});
    }
    if (begin >= 0) {
      step->entry_rows.push_back(
          {static_cast<int32_t>(slice.first_row + r), begin, static_cast<int32_t>(step->entries.size())});
    }
  }
}

void StepTables::add_latches(const StepSlice& slice, int64_t rows) {
  const int64_t r = int64_t{slice.prompt} - 1 - slice.first_position;
  if (r < slice.fresh || r >= slice.count) return;
  for (const SiteProgram& part : slice.program->sites()) {
    for (const CompiledOperation& operation : part.operations) {
      if (!operation.latch) continue;
      const auto index = static_cast<size_t>(operation.gate);
      SiteStep& site = touch(slice.program->readings()[index].site, rows);
      const float* value = gate_reading(slice, index, r, site, rows);
      staged_readings_.push_back(
          {static_cast<size_t>(value - buffer_data_), 1, slice.latches->data() + operation.gate});
    }
  }
}

void StepTables::add_steady(const StepSlice& slice, const SteadyRows& steady, int64_t rows) {
  for (const SteadyRows::Part& part : steady.parts) {
    SiteStep& step = touch(part.site, rows);
    const auto begin = static_cast<int32_t>(step.entries.size());
    for (int32_t o = part.begin; o < part.end; ++o) {
      const SteadyRows::Operation& operation = steady.operations[static_cast<size_t>(o)];
      step.entries.push_back({static_cast<int32_t>(step.ops.size()), operation.strength, nullptr});
      add_op(step, part.site, operation.op, slice.counters);
    }
    step.entry_rows.push_back(
        {static_cast<int32_t>(slice.first_row), begin, static_cast<int32_t>(step.entries.size())});
  }
}

void StepTables::add_operations(const StepSlice& slice, int64_t rows) {
  const SteadyRows& steady = slice.program->steady();
  if (slice.count == 1 && slice.fresh == 0 && slice.first_position - slice.prompt >= steady.from) {
    return add_steady(slice, steady, rows);
  }
  made_.assign(slice.program->readings().size() * static_cast<size_t>(slice.count), 0);
  for (const SiteProgram& part : slice.program->sites()) add_entries(slice, part, rows);
  if (!slice.program->readings().empty()) add_latches(slice, rows);
}

void StepTables::add_captures(const StepSlice& slice, std::vector<Capture>& captures, int64_t rows) {
  for (Capture& capture : captures) {
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
    const auto row_of = [&](int32_t position) {
      return static_cast<int32_t>(slice.first_row + position - slice.first_position);
    };
    if (capture.reduce() == Reduce::kDirections) {
      const auto count = static_cast<size_t>(capture.outputs());
      staged_readings_.push_back({buffer_used_, selected_.size() * count, out});
      for (int32_t position : selected_) {
        step.reading_rows.push_back({row_of(position),
                                     {capture.weight().const_data_ptr<float>(), buffer_data_ + buffer_used_,
                                      static_cast<int32_t>(count), capture.cosine() ? 1 : 0}});
        buffer_used_ += count;
      }
      continue;
    }
    float* to = out;
    if (!device_.is_cpu() || capture.reduce() != Reduce::kNone) {
      at::Tensor staging = at::empty({static_cast<int64_t>(selected_.size()), capture.width()},
                                     at::TensorOptions().dtype(at::kFloat).device(device_));
      staged_rows_.push_back({&capture, staging, out, capture.prepared_indices()});
      to = staging.mutable_data_ptr<float>();
    }
    for (size_t i = 0; i < selected_.size(); ++i) {
      step.capture_rows.push_back({row_of(selected_[i]), to + i * static_cast<size_t>(capture.width())});
    }
  }
}

void StepTables::begin(int64_t rows, std::vector<StepSlice> slices) {
  const ProfileScope profile(Operator::kTables);
  slices_ = std::move(slices);
  reserve_readings();
  for (const StepSlice& slice : slices_) {
    if (slice.program != nullptr) add_operations(slice, rows);
    if (slice.captures != nullptr) add_captures(slice, *slice.captures, rows);
    if (slice.probes != nullptr) add_captures(slice, *slice.probes, rows);
  }
  for (int64_t site : active_) sites_.at(site).hook->step.finish();
}

void StepTables::check_reached() {
  for (int64_t site : active_) {
    const SiteStep& step = sites_.at(site).hook->step;
    if (step.ran && !step.ungated) continue;
    const std::string name = sites_.at(site).name;
    const bool ran = step.ran;
    cancel();
    if (ran) {
      throw Error("ERR_GATE_READING", text("the model's forward passed site \"", name, "\" before the site that a gate "
                                           "of its operations reads"), {{"site", name}});
    }
    throw Error("ERR_SITE_NOT_REACHED", text("site \"", name, "\" had work in this step but the model's forward "
                                             "did not pass it"), {{"site", name}});
  }
}

void StepTables::reduce(const StagedRows& staged) {
  const Capture& capture = *staged.capture;
  const int64_t total = staged.rows.size(0);
  const int64_t values = capture.values();
  const int64_t most = capture.reduce() == Reduce::kNone ? total : kReduceRows;
  for (int64_t first = 0; first < total; first += most) {
    const int64_t count = std::min(most, total - first);
    at::Tensor rows = staged.rows.narrow(0, first, count);
    if (capture.reduce() == Reduce::kEncoder) {
      const OptionalTensor bias = capture.bias().defined() ? OptionalTensor(capture.bias()) : OptionalTensor();
      rows = backend_of(rows).linear(rows, capture.weight(), bias);
      if (capture.relu()) rows = rows.relu();
    } else if (capture.reduce() == Reduce::kLens) {
      rows = lens_(rows);
    }
    at::Tensor indices;
    if (capture.top_k() > 0) {
      std::tie(rows, indices) = rows.topk(capture.top_k(), -1, /*largest=*/true, /*sorted=*/true);
      indices = indices.to(at::kCPU, at::kInt).contiguous();
      std::memcpy(staged.indices + first * values, indices.const_data_ptr<int32_t>(), indices.nbytes());
    }
    rows = rows.to(at::kCPU, at::kFloat).contiguous();
    std::memcpy(staged.out + first * values, rows.const_data_ptr<float>(), rows.nbytes());
  }
}

void StepTables::end() {
  const ProfileScope profile(Operator::kTables);
  check_reached();
  if (!targets_.empty() && !device_.is_cpu()) cuda_backend()->read_counters();
  for (const CounterTarget& target : targets_) {
    const SteerCounter& counted =
        sites_.at(target.site).hook->step.counters[static_cast<size_t>(target.entry)];
    target.total->rows += counted.rows;
    target.total->change_norm += counted.change_norm;
  }
  idle();  // a lens runs modules of the model
  if (!staged_readings_.empty()) {
    const at::Tensor host = buffer_.narrow(0, 0, static_cast<int64_t>(buffer_used_)).cpu();
    const float* values = host.const_data_ptr<float>();
    for (const StagedReadings& part : staged_readings_) {
      std::memcpy(part.out, values + part.from, part.count * sizeof(float));
    }
  }
  for (const StagedRows& part : staged_rows_) reduce(part);
  for (const StepSlice& slice : slices_) {
    for (auto* captures : {slice.captures, slice.probes}) {
      if (captures == nullptr) continue;
      for (Capture& capture : *captures) capture.commit();
    }
  }
  cancel();
}

void StepTables::idle() {
  for (int64_t site : active_) sites_.at(site).hook->step.active = false;
  active_.clear();
  targets_.clear();
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
  idle();
  slices_.clear();
  staged_rows_.clear();
  staged_readings_.clear();
}

}  // namespace chatspace
